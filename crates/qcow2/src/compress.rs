//! Compressed clusters: raw deflate with a window of 4 KiB, or zstd.

use std::cell::RefCell;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use crate::error::{Error, Result};
use crate::format::CompressionType;
use crate::format::entry::CompressedRange;

/// Window size that the format fixes for deflate, as a power of two.
const WINDOW_BITS: u8 = 12;
/// zlib's own default, which qemu-img uses.
const ZLIB_LEVEL: u32 = 6;
const ZSTD_LEVEL: i32 = 3;

thread_local! {
    // Setting a compressor up costs as much as using it on one cluster.
    static DEFLATE: RefCell<Option<Compress>> = const { RefCell::new(None) };
    static INFLATE: RefCell<Option<Decompress>> = const { RefCell::new(None) };
    static ZSTD_IN: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    static ZSTD_OUT: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses one cluster. None if that does not make it smaller.
pub(crate) fn compress(kind: CompressionType, cluster: &[u8]) -> Result<Option<Vec<u8>>> {
    let limit = cluster.len().saturating_sub(1);
    match kind {
        CompressionType::Zlib => Ok(deflate(cluster, limit)),
        CompressionType::Zstd => ZSTD_OUT.with_borrow_mut(|slot| {
            let failed = |error| Error::Io {
                action: "compress",
                offset: 0,
                length: cluster.len() as u64,
                source: error,
            };
            let compressor = match slot {
                Some(compressor) => compressor,
                None => slot.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).map_err(failed)?),
            };
            let mut out = Vec::with_capacity(limit);
            // The only failure is a buffer that is too small: the cluster does not shrink.
            let done = compressor.compress_to_buffer(cluster, &mut out);
            Ok((done.is_ok() && out.len() <= limit).then_some(out))
        }),
    }
}

fn deflate(cluster: &[u8], limit: usize) -> Option<Vec<u8>> {
    DEFLATE.with_borrow_mut(|slot| {
        let engine = slot.get_or_insert_with(|| {
            Compress::new_with_window_bits(Compression::new(ZLIB_LEVEL), false, WINDOW_BITS)
        });
        engine.reset();
        // Room for whatever may come, although more than `limit` is of no use: zlib-rs panics where
        // a block that it stores as it is has to wait for room (0.6.8, 16 KiB of random bytes).
        let mut out = Vec::with_capacity(deflate_bound(cluster.len()));
        let status = engine
            .compress_vec(cluster, &mut out, FlushCompress::Finish)
            .ok()?;
        (status == Status::StreamEnd && out.len() <= limit).then_some(out)
    })
}

/// Bytes that any data of a length takes at most, as zlib's deflateBound has them.
fn deflate_bound(length: usize) -> usize {
    length + length.div_ceil(8) + length.div_ceil(64) + 16
}

/// Decompresses `data` into all of `cluster`.
pub(crate) fn decompress(
    kind: CompressionType,
    range: CompressedRange,
    data: &[u8],
    cluster: &mut [u8],
) -> Result<()> {
    let done = match kind {
        CompressionType::Zlib => inflate(data, cluster),
        CompressionType::Zstd => unzstd(data, cluster),
    };
    done.map_err(|reason| Error::Decompress {
        offset: range.offset,
        length: range.length,
        reason,
    })
}

fn inflate(data: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    INFLATE.with_borrow_mut(|slot| {
        let engine = slot.get_or_insert_with(|| Decompress::new(false));
        engine.reset(false);
        engine
            .decompress(data, cluster, FlushDecompress::Finish)
            .map_err(|error| error.to_string())?;
        // Writers may leave out the end mark when the cluster is complete.
        match engine.total_out() as usize {
            count if count == cluster.len() => Ok(()),
            count => Err(format!("{count} bytes instead of {}", cluster.len())),
        }
    })
}

fn unzstd(data: &[u8], cluster: &mut [u8]) -> Result<(), String> {
    ZSTD_IN.with_borrow_mut(|slot| {
        let engine = match slot {
            Some(engine) => engine,
            None => {
                slot.insert(zstd::bulk::Decompressor::new().map_err(|error| error.to_string())?)
            }
        };
        // The last sector's rest follows the frame; the decoder wants the frame alone.
        let size = zstd::zstd_safe::find_frame_compressed_size(data)
            .map_err(|_| "no complete frame".to_string())?;
        let frame = data.get(..size).ok_or("frame exceeds its sectors")?;
        match engine.decompress_to_buffer(frame, cluster) {
            Ok(count) if count == cluster.len() => Ok(()),
            Ok(count) => Err(format!("{count} bytes instead of {}", cluster.len())),
            Err(error) => Err(error.to_string()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: CompressedRange = CompressedRange {
        offset: 0,
        length: 0,
    };

    #[test]
    fn round_trip_with_a_padded_tail() {
        let cluster: Vec<u8> = (0..65536u32).map(|i| (i / 100 * 7) as u8).collect();
        for kind in [CompressionType::Zlib, CompressionType::Zstd] {
            let mut data = compress(kind, &cluster).unwrap().unwrap();
            assert!(data.len() < 8192);
            data.resize(data.len().next_multiple_of(512) + 512, 0xaa);
            let mut back = vec![0; cluster.len()];
            decompress(kind, RANGE, &data, &mut back).unwrap();
            assert!(back == cluster);
            assert!(decompress(kind, RANGE, &data[..40], &mut back).is_err());
        }
    }

    #[test]
    fn noise_does_not_shrink() {
        let mut state = 1u64;
        let mut noise = std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as u8
        });
        // Of 16 KiB, one in forty was too much for the compressor.
        let many = std::iter::repeat_n(1 << 14, 200);
        for size in (9..=21).map(|bits| 1 << bits).chain(many) {
            let cluster: Vec<u8> = noise.by_ref().take(size).collect();
            for kind in [CompressionType::Zlib, CompressionType::Zstd] {
                assert_eq!(compress(kind, &cluster).unwrap(), None);
            }
        }
    }
}
