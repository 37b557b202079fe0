#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod aligned;
mod bitmap;
mod cache;
pub mod chain;
mod check;
mod compress;
mod create;
mod crypt;
mod error;
mod format;
mod image;
mod jobs;
#[cfg(feature = "luks")]
pub mod luks;
mod map;
mod node;
mod refcount;
mod snapshot;
pub mod storage;
mod sys;
#[cfg(feature = "test-utils")]
pub mod test_utils;

pub use aligned::AlignedBuf;
pub use bitmap::BitmapInfo;
pub use cache::epoch::Ticket;
pub use check::{CheckReport, Finding, FindingKind, Repair};
pub use create::{CreateOptions, Preallocation};
pub use crypt::{Cipher, Format, Unlock, Unlocked};
pub use error::{Error, Result};
pub use format::{
    Autoclear, Compatible, CompressionType, CryptMethod, CryptoHeader, Extension, Geometry, Header,
    Incompatible,
};
pub use image::{Backing, Extent, FindingSink, Image, OpenOptions};
pub use jobs::{AmendOptions, Measured, Progress, commit, copy_range, measure, rebase};
pub use map::MapRun;
pub use node::{Node, RawDisk};
pub use snapshot::{NewSnapshot, Snapshot};
pub use storage::Storage;
