//! Internal snapshots.

mod at_once;
mod format;
mod ops;
mod zeroes;

pub use format::Snapshot;
pub(crate) use format::read_table;
pub use ops::NewSnapshot;
pub(crate) use ops::find;
