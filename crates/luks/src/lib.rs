#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod algorithm;
mod antiforensic;
mod error;
mod header;
mod kdf;
mod sector;
mod storage;
mod volume;

pub use algorithm::{Cipher, CipherSpec, Hash, Mode};
pub use error::{Error, Result, SlotFault};
pub use header::{HEADER_LEN, Header, SLOTS, Slot};
pub use kdf::{MAX_ITERATIONS, MIN_ITERATIONS};
pub use sector::{SECTOR_SIZE, SectorCipher};
pub use storage::{HeaderStorage, MemoryHeader};
pub use volume::{CreateOptions, Volume, header_area_len, read_header};
