//! The on-disk structures: plain values, decoded and encoded without I/O.

pub(crate) mod bytes;
pub(crate) mod entry;
pub(crate) mod extension;
pub(crate) mod feature;
pub(crate) mod geometry;
pub(crate) mod header;

pub use extension::{CryptoHeader, Extension};
pub use feature::{Autoclear, Compatible, Incompatible};
pub use geometry::Geometry;
pub use header::{CompressionType, CryptMethod, Header};
