//! Payloads of every compression, whole, damaged and lying about their size.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::Write as _;

use common::cause;
use flate2::write::GzEncoder;
use strata_boot::test_utils::{BzImageKernel, ElfKernel, lz4_stored, open_bytes, with_size};
use strata_boot::{Compression, Error, Kernel};

fn elf() -> Vec<u8> {
    ElfKernel::small().to_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[cfg(feature = "xz")]
fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder =
        lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(feature = "xz")]
fn lzma(bytes: &[u8]) -> Vec<u8> {
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut encoder = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(feature = "bzip2")]
fn bzip2(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Every method that this build knows, with the payload of [`elf`] as a bzImage would have it.
fn payloads() -> Vec<(Compression, Vec<u8>)> {
    let elf = elf();
    let sized = |bytes| with_size(bytes, elf.len());
    vec![
        (Compression::None, sized(elf.clone())),
        (Compression::Gzip, gzip(&elf)),
        (Compression::Lz4, sized(lz4_stored(&elf))),
        (Compression::Zstd, sized(zstd(&elf))),
        #[cfg(feature = "xz")]
        (Compression::Xz, sized(xz(&elf))),
        #[cfg(feature = "xz")]
        (Compression::Lzma, sized(lzma(&elf))),
        #[cfg(feature = "bzip2")]
        (Compression::Bzip2, sized(bzip2(&elf))),
    ]
}

fn image(payload: &[u8]) -> Kernel {
    open_bytes(BzImageKernel::with_payload(payload.to_vec()).to_bytes()).unwrap()
}

#[test]
fn every_method_gives_the_same_kernel() {
    for (method, payload) in payloads() {
        let kernel = image(&payload);
        assert_eq!(kernel.compression().unwrap(), Some(method));
        let dense = open_bytes(kernel.to_dense().unwrap()).unwrap();
        assert_eq!(dense.loaded_bytes(), 8 * 4096, "{method:?}");
        assert_eq!(dense.protocols().len(), 2, "{method:?}");
    }
}

#[test]
fn every_damage_is_an_error_or_seen_by_size() {
    for (method, payload) in payloads() {
        for cut in [1, payload.len() / 3, payload.len() - 9] {
            let error = image(&payload[..cut]).to_dense().unwrap_err();
            let known = matches!(
                error,
                Error::Decompress { .. }
                    | Error::PayloadTooLarge { .. }
                    | Error::UnknownCompression { .. }
                    | Error::Malformed { .. }
                    | Error::Truncated { .. }
            );
            assert!(known, "{method:?}: {error}");
        }
    }
}

#[test]
fn a_payload_that_outgrows_its_claim_is_stopped() {
    for (method, mut payload) in payloads() {
        let claim = payload.len() - 4;
        payload[claim..].copy_from_slice(&5000_u32.to_le_bytes());
        let error = image(&payload).to_dense().unwrap_err();
        assert!(
            matches!(error, Error::PayloadTooLarge { limit: 5000 }),
            "{method:?}: {error}"
        );
    }
}

#[test]
fn a_payload_that_is_smaller_than_its_claim_is_damaged() {
    let elf = elf();
    let image = image(&with_size(lz4_stored(&elf), elf.len() + 1));
    assert!(matches!(image.to_dense(), Err(Error::Malformed { .. })));
}

#[test]
fn nothing_unpacks_to_more_than_the_memory_that_the_kernel_asks_for() {
    let elf = elf();
    let payload = with_size(zstd(&elf), elf.len());
    let init_size = 0x4000;
    let bytes = BzImageKernel {
        init_size,
        ..BzImageKernel::with_payload(payload)
    }
    .to_bytes();
    let error = open_bytes(bytes).unwrap().to_dense().unwrap_err();
    assert!(
        matches!(error, Error::PayloadTooLarge { limit } if limit == 0x4000),
        "{error}"
    );
}

#[test]
fn a_bomb_ends_at_the_limit() {
    let bomb = gzip(&vec![0; 8 << 20]);
    let error = Compression::Gzip.unpack(&bomb, 1 << 20).unwrap_err();
    assert!(matches!(error, Error::PayloadTooLarge { .. }));
}

#[test]
fn unknown_methods_are_named() {
    for (magic, name) in [
        (&b"\x89LZO\0\r\n"[..], "lzo"),
        (b"what is this?", "an unknown method"),
    ] {
        let kernel = image(&with_size(magic.to_vec(), 4096));
        let error = kernel.to_dense().unwrap_err();
        assert!(
            matches!(error, Error::UnknownCompression { method } if method == name),
            "{error}"
        );
    }
}

#[test]
fn a_payload_that_is_no_kernel_is_refused() {
    let kernel = image(&with_size(lz4_stored(b"no kernel"), 9));
    assert!(matches!(kernel.to_dense(), Err(Error::Malformed { .. })));
    let program = ElfKernel {
        pvh_entry: None,
        vmlinux: false,
        ..ElfKernel::small()
    }
    .to_bytes();
    let kernel = image(&with_size(lz4_stored(&program), program.len()));
    assert!(matches!(
        cause(kernel.to_dense().unwrap_err()),
        Error::NoEntry
    ));
}
