//! For tests and fuzzing.

pub use crate::virtio::exercise;
