//! Persistent dirty bitmaps: which parts of the disk were written since some moment.
//!
//! While an image is written, its enabled bitmaps live in memory and carry the in_use flag on
//! disk; closing stores them. A crash leaves the flag, and the bitmap can only be removed then.

mod format;
mod memory;
mod ops;
mod store;
mod track;

pub(crate) use format::references;
pub(crate) use memory::Bitmap;
pub use ops::BitmapInfo;
pub(crate) use track::Tracker;
