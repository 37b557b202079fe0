//! Internal snapshots.

mod format;
mod ops;

pub use format::Snapshot;
pub(crate) use format::read_table;
pub use ops::NewSnapshot;
pub(crate) use ops::find;
