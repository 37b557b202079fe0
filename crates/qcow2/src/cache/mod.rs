//! What an open image keeps of its metadata in memory.

pub(crate) mod cluster_set;
pub(crate) mod epoch;
pub(crate) mod slices;
pub(crate) mod table;
