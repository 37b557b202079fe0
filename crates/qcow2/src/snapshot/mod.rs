//! Internal snapshots.

mod at_once;
mod format;
mod ops;
mod zeroes;

pub use format::Snapshot;
pub(crate) use format::{MAX_EXTRA, Salvage, read_table, salvage_table};
pub use ops::NewSnapshot;
pub(crate) use ops::find;
