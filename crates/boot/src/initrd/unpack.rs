//! Taking the compression off an initrd, which costs a guest more than to be handed it plain.
//!
//! An initrd is any number of cpio archives one after another, each plain or compressed, with
//! zeroes between (kernel, Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::Read;

/// The cpio header of the `newc` format: a magic number and thirteen fields of eight hex digits.
const HEADER_SIZE: usize = 110;
const FILE_SIZE_FIELD: usize = 6;
const NAME_SIZE_FIELD: usize = 11;
const TRAILER: &[u8] = b"TRAILER!!!\0";
/// A header and the trailer's name: so many bytes follow from every file's beginning.
pub(super) const HEAD_SIZE: usize = HEADER_SIZE + TRAILER.len();
/// Behind its trailer an archive is filled up with zeroes to a block, of at most this many bytes.
pub(super) const MAX_BLOCK: usize = 4096;

/// Archives begin at multiples of this many bytes.
const ALIGN: usize = 4;

/// Longest history that is accepted of a zstd frame: what Linux's own decompressor accepts.
const MAX_ZSTD_WINDOW: u64 = 8 << 20;

/// The archives of `initrd` without their compression, in at most `limit` bytes.
///
/// `None` when there is nothing to take off, when it would not fit, or when any part is of a kind
/// that is not known here: the guest then gets what its user gave.
pub(super) fn unpack(initrd: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = initrd;
    let mut unpacked = false;
    loop {
        let at = rest
            .iter()
            .position(|&byte| byte != 0)
            .unwrap_or(rest.len());
        rest = &rest[at..];
        out.resize(out.len().next_multiple_of(ALIGN), 0);
        let room = limit.checked_sub(out.len())?;
        match rest {
            [] => return unpacked.then_some(out),
            [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..] => {
                let head = |at| rest.get(at..)?.first_chunk().copied();
                let (archive, behind) = rest.split_at_checked(archive_len(rest.len(), head)?)?;
                if archive.len() > room {
                    return None;
                }
                out.extend_from_slice(archive);
                rest = behind;
            }
            [0x1f, 0x8b, ..] => {
                let mut decoder = flate2::bufread::GzDecoder::new(rest);
                read(&mut decoder, room, &mut out)?;
                rest = decoder.into_inner();
                unpacked = true;
            }
            [0x28, 0xb5, 0x2f, 0xfd, ..] => {
                let decoder = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(
                    &mut rest,
                    MAX_ZSTD_WINDOW,
                );
                read(&mut decoder.ok()?, room, &mut out)?;
                unpacked = true;
            }
            _ => return None,
        }
    }
}

/// Appends all that `decoder` gives, if it is at most `room` bytes.
fn read(decoder: &mut impl Read, room: usize, out: &mut Vec<u8>) -> Option<()> {
    let most = u64::try_from(room).ok()?;
    let len = decoder.take(most.saturating_add(1)).read_to_end(out).ok()?;
    (len <= room).then_some(())
}

/// The end of the one plain archive that an initrd of `size` bytes begins with: its trailer's.
/// `head` gives the bytes at an offset.
pub(super) fn plain_end(
    size: usize,
    mut head: impl FnMut(usize) -> Option<[u8; HEAD_SIZE]>,
) -> Option<usize> {
    matches!(head(0)?, [b'0', b'7', b'0', b'7', b'0', b'1' | b'2', ..]).then_some(())?;
    archive_len(size, head)
}

/// Bytes of a plain archive, its trailer included, of which `head` gives the bytes at an offset:
/// those of at most `size` bytes.
fn archive_len(
    size: usize,
    mut head: impl FnMut(usize) -> Option<[u8; HEAD_SIZE]>,
) -> Option<usize> {
    let mut at = 0_usize;
    loop {
        let head = head(at)?;
        let (header, name) = head.split_at(HEADER_SIZE);
        let name_size = field(header, NAME_SIZE_FIELD)?;
        let name_end = at.checked_add(HEADER_SIZE)?.checked_add(name_size)?;
        let data_at = name_end.checked_next_multiple_of(ALIGN)?;
        let data_end = data_at.checked_add(field(header, FILE_SIZE_FIELD)?)?;
        if name_size == TRAILER.len() && name == TRAILER {
            return Some(data_end.min(size));
        }
        at = data_end.checked_next_multiple_of(ALIGN)?;
    }
}

fn field(header: &[u8], index: usize) -> Option<usize> {
    let digits = header.get(6 + 8 * index..14 + 8 * index)?;
    usize::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut entry = |name: &str, data: &[u8]| {
            let mut fields = [0; 13];
            (fields[FILE_SIZE_FIELD], fields[NAME_SIZE_FIELD]) = (data.len(), name.len() + 1);
            out.extend_from_slice(b"070701");
            for value in fields {
                out.extend_from_slice(format!("{value:08x}").as_bytes());
            }
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.resize(out.len().next_multiple_of(ALIGN), 0);
            out.extend_from_slice(data);
            out.resize(out.len().next_multiple_of(ALIGN), 0);
        };
        for (name, data) in files {
            entry(name, data);
        }
        entry("TRAILER!!!", b"");
        out
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    const LIMIT: usize = 1 << 20;

    #[test]
    fn a_compressed_archive_comes_out_plain() {
        let plain = archive(&[("init", b"#!/bin/sh"), ("a", &[7; 5000])]);
        assert_eq!(unpack(&gzip(&plain), LIMIT), Some(plain));
    }

    #[test]
    fn plain_and_compressed_archives_keep_their_order_and_alignment() {
        let (first, second) = (archive(&[("early", b"x")]), archive(&[("init", b"y")]));
        let third = archive(&[("more", b"z")]);
        let mut initrd = first.clone();
        initrd.resize(initrd.len().next_multiple_of(512), 0);
        initrd.extend(gzip(&second));
        initrd.extend(gzip(&third));
        initrd.extend([0; 7]);
        let out = unpack(&initrd, LIMIT).unwrap();
        assert_eq!(out, [first, second, third].concat());
        assert_eq!(out.len() % ALIGN, 0);
    }

    #[test]
    fn a_plain_archive_s_end_is_found_by_its_headers_alone() {
        let plain = archive(&[("init", b"#!/bin/sh"), ("a", &[7; 5000])]);
        let end = |bytes: &[u8]| {
            let mut heads = 0;
            let end = plain_end(bytes.len(), |at| {
                heads += 1;
                bytes.get(at..)?.first_chunk().copied()
            });
            (end, heads)
        };
        // The first is looked at twice.
        assert_eq!(end(&plain), (Some(plain.len()), 4));
        let more = [plain.clone(), gzip(&plain)].concat();
        assert_eq!(end(&more), (Some(plain.len()), 4));
        assert_eq!(end(&gzip(&plain)).0, None);
        assert_eq!(end(&plain[..plain.len() - 20]).0, None);
    }

    #[test]
    fn what_is_plain_or_unknown_is_left_alone() {
        let plain = archive(&[("init", b"y")]);
        assert_eq!(unpack(&plain, LIMIT), None, "nothing to take off");
        assert_eq!(unpack(b"\xfd7zXZ\0", LIMIT), None, "of a kind not known");
        assert_eq!(
            unpack(&[gzip(&plain), b"junk".to_vec()].concat(), LIMIT),
            None
        );
        assert_eq!(unpack(b"", LIMIT), None);
        assert_eq!(unpack(&[0; 64], LIMIT), None);
    }

    #[test]
    fn the_limit_holds_for_the_whole() {
        let plain = archive(&[("init", &[0; 10_000])]);
        let initrd = [plain.clone(), gzip(&plain)].concat();
        assert!(unpack(&initrd, 2 * plain.len()).is_some());
        assert_eq!(unpack(&initrd, 2 * plain.len() - 1), None);
        assert_eq!(unpack(&initrd, 10), None);
    }

    #[test]
    fn cut_or_bent_initrds_do_no_harm() {
        let initrd = [
            archive(&[("a", b"b")]),
            gzip(&archive(&[("init", &[1; 300])])),
        ]
        .concat();
        for len in 0..initrd.len() {
            assert_eq!(unpack(&initrd[..len], LIMIT), None, "{len}");
        }
        for at in 0..initrd.len() {
            for value in [0, b'f', 0xff] {
                let mut bent = initrd.clone();
                bent[at] = value;
                let _ = unpack(&bent, LIMIT);
            }
        }
    }
}
