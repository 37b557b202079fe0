//! Undoing the compression of a bzImage's payload, within a bound that the caller sets.

use std::io::Read;

use crate::bytes::u32_at;
use crate::error::{Error, Result};

/// The zstd window that `zstd -22`, as the kernel's build uses it, asks for.
const MAX_ZSTD_WINDOW: u64 = 128 << 20;
/// A block of the legacy LZ4 frame holds at most this much when unpacked.
const LZ4_BLOCK: usize = 8 << 20;

/// How a payload is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all: the payload is an ELF file.
    None,
    /// gzip.
    Gzip,
    /// bzip2.
    Bzip2,
    /// lzma, the format of its own (not xz).
    Lzma,
    /// xz.
    Xz,
    /// lzop.
    Lzo,
    /// LZ4, the legacy frame.
    Lz4,
    /// Zstandard.
    Zstd,
    /// Nothing that is known.
    Unknown,
}

impl Compression {
    /// Recognises a method by the payload's first bytes.
    pub fn of(payload: &[u8]) -> Self {
        const MAGICS: [(&[u8], Compression); 8] = [
            (b"\x7fELF", Compression::None),
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\xfd7zXZ\0", Compression::Xz),
            (b"\x89LZO", Compression::Lzo),
            (b"\x02\x21\x4c\x18", Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        let known = MAGICS.iter().find(|(magic, _)| payload.starts_with(magic));
        known.map_or(Self::Unknown, |&(_, method)| method)
    }

    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "no compression",
            Self::Gzip => "gzip",
            Self::Bzip2 => "bzip2",
            Self::Lzma => "lzma",
            Self::Xz => "xz",
            Self::Lzo => "lzo",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Unknown => "an unknown method",
        }
    }

    /// Unpacks `payload` to at most `limit` bytes.
    ///
    /// Memory grows with what is unpacked, never with what a header claims (beyond one block or
    /// window of constant size).
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCompression`], [`Error::Decompress`] or [`Error::PayloadTooLarge`].
    pub fn unpack(self, payload: &[u8], limit: u64) -> Result<Vec<u8>> {
        match self {
            Self::None => self.read(payload, limit),
            Self::Gzip => self.read(flate2::read::GzDecoder::new(payload), limit),
            Self::Lz4 => self.unpack_lz4(payload, limit),
            Self::Zstd => {
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    payload,
                    MAX_ZSTD_WINDOW,
                );
                self.read(decoder.map_err(|e| self.damaged(e))?, limit)
            }
            #[cfg(feature = "xz")]
            Self::Xz => {
                let memory_kib = (limit >> 10) as u32 + (64 << 10);
                self.read(
                    lzma_rust2::XzReader::new_mem_limit(payload, false, memory_kib),
                    limit,
                )
            }
            #[cfg(feature = "xz")]
            Self::Lzma => {
                let memory_kib = (limit >> 10) as u32 + (64 << 10);
                let decoder = lzma_rust2::LzmaReader::new_mem_limit(payload, memory_kib, None);
                self.read(decoder.map_err(|e| self.damaged(e))?, limit)
            }
            #[cfg(feature = "bzip2")]
            Self::Bzip2 => self.read(bzip2::read::BzDecoder::new(payload), limit),
            _ => Err(Error::UnknownCompression {
                method: self.name(),
            }),
        }
    }

    fn read(self, decoder: impl Read, limit: u64) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        let len = decoder
            .take(limit.saturating_add(1))
            .read_to_end(&mut out)
            .map_err(|e| self.damaged(e))?;
        if len as u64 > limit {
            return Err(Error::PayloadTooLarge { limit });
        }
        Ok(out)
    }

    /// The legacy frame: a magic number, then blocks, each with its compressed size before it.
    fn unpack_lz4(self, payload: &[u8], limit: u64) -> Result<Vec<u8>> {
        use lz4_flex::block::{DecompressError, decompress_into};
        const MAGIC: usize = 4;
        let mut out = Vec::new();
        let mut rest = payload.get(MAGIC..).unwrap_or_default();
        while !rest.is_empty() {
            let size =
                u32_at(rest, 0).ok_or_else(|| self.damaged("cut off within a block size"))?;
            let block = 4_usize
                .checked_add(size as usize)
                .and_then(|end| rest.get(4..end));
            let block = block.ok_or_else(|| self.damaged("cut off within a block"))?;
            if size == 0 {
                return Err(self.damaged("an empty block"));
            }
            let done = out.len();
            let room = limit.saturating_sub(done as u64).min(LZ4_BLOCK as u64) as usize;
            out.resize(done + room, 0);
            match decompress_into(block, &mut out[done..]) {
                Ok(len) => out.truncate(done + len),
                Err(DecompressError::OutputTooSmall { .. }) if room < LZ4_BLOCK => {
                    return Err(Error::PayloadTooLarge { limit });
                }
                Err(e) => return Err(self.damaged(e)),
            }
            rest = &rest[4 + block.len()..];
        }
        Ok(out)
    }

    fn damaged(self, reason: impl ToString) -> Error {
        Error::Decompress {
            method: self.name(),
            reason: reason.to_string(),
        }
    }
}
