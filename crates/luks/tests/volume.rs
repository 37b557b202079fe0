//! The life of a volume: creation, unlocking, key slots, and a medium that fails.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::io;
use std::time::Duration;

use strata_luks::{
    Cipher, CipherSpec, CreateOptions, Error, HEADER_LEN, Hash, Header, HeaderStorage,
    MAX_ITERATIONS, MemoryHeader, Mode, SLOTS, SlotFault, Volume, header_area_len, read_header,
};

const QUICK: Duration = Duration::from_millis(1);

fn quick() -> CreateOptions {
    CreateOptions {
        iter_time: QUICK,
        ..Default::default()
    }
}

#[test]
fn created_volumes_open_in_every_combination() {
    for mode in [
        Mode::XtsPlain64,
        Mode::XtsPlain,
        Mode::CbcPlain64,
        Mode::CbcPlain,
        Mode::CbcEssivSha256,
    ] {
        for cipher in [Cipher::Aes128, Cipher::Aes256] {
            for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
                let spec = CipherSpec { cipher, mode };
                let area = MemoryHeader::default();
                let options = CreateOptions {
                    cipher: spec,
                    hash,
                    ..quick()
                };
                let made = Volume::create(&area, &options, b"pass").unwrap();
                assert_eq!(made.payload_offset(), header_area_len(spec));
                assert!(area.to_vec().len() as u64 <= made.payload_offset());

                let opened = Volume::open(&area, b"pass").unwrap();
                let mut data = vec![3; 512];
                made.cipher().encrypt(77, &mut data).unwrap();
                opened.cipher().decrypt(77, &mut data).unwrap();
                assert_eq!(data, vec![3; 512]);
                assert!(matches!(
                    Volume::open(&area, b"Pass"),
                    Err(Error::Passphrase)
                ));
            }
        }
    }
}

#[test]
fn all_eight_slots_are_filled_and_freed() {
    let area = MemoryHeader::default();
    let mut volume = Volume::create(&area, &quick(), b"pass 0").unwrap();
    for slot in 1..SLOTS {
        let phrase = format!("pass {slot}");
        assert_eq!(
            volume
                .add_key(&area, None, phrase.as_bytes(), QUICK)
                .unwrap(),
            slot
        );
    }
    assert!(matches!(
        volume.add_key(&area, None, b"more", QUICK),
        Err(Error::NoFreeSlot)
    ));
    assert!(matches!(
        volume.add_key(&area, Some(3), b"more", QUICK),
        Err(Error::Slot {
            slot: 3,
            reason: SlotFault::Active
        })
    ));
    assert!(volume.slot_opens(&area, 5, b"pass 5").unwrap());
    assert!(!volume.slot_opens(&area, 5, b"pass 4").unwrap());

    for slot in 0..SLOTS - 1 {
        volume.remove_key(&area, slot, false).unwrap();
        let phrase = format!("pass {slot}");
        assert!(matches!(
            Volume::open(&area, phrase.as_bytes()),
            Err(Error::Passphrase)
        ));
    }
    assert!(Volume::open(&area, b"pass 7").is_ok());
    assert!(matches!(
        volume.remove_key(&area, 7, false),
        Err(Error::LastSlot(7))
    ));
    assert!(matches!(
        volume.remove_key(&area, 6, false),
        Err(Error::Slot {
            slot: 6,
            reason: SlotFault::Inactive
        })
    ));
    assert!(matches!(
        volume.slot_opens(&area, 8, b""),
        Err(Error::Slot { slot: 8, .. })
    ));
    volume.remove_key(&area, 7, true).unwrap();
    assert!(matches!(
        Volume::open(&area, b"pass 7"),
        Err(Error::Passphrase)
    ));
}

#[test]
fn a_removed_slot_leaves_no_material() {
    let area = MemoryHeader::default();
    let mut volume = Volume::create(&area, &quick(), b"a").unwrap();
    volume.add_key(&area, Some(1), b"b", QUICK).unwrap();
    let at = volume.header().slots[1].material_sector as usize * 512;
    let before = area.to_vec()[at..at + 256_000].to_vec();
    volume.remove_key(&area, 1, false).unwrap();
    let after = area.to_vec()[at..at + 256_000].to_vec();
    let same = before
        .chunks(64)
        .zip(after.chunks(64))
        .filter(|(a, b)| a == b)
        .count();
    assert_eq!(same, 0, "stripes survived");
}

#[test]
fn the_header_round_trips() {
    let area = MemoryHeader::default();
    let volume = Volume::create(&area, &quick(), b"a").unwrap();
    let bytes: [u8; HEADER_LEN] = area.to_vec()[..HEADER_LEN].try_into().unwrap();
    assert_eq!(volume.header().to_bytes(), bytes);
    assert_eq!(
        Header::parse(&bytes, MAX_ITERATIONS).unwrap(),
        *volume.header()
    );
}

#[test]
fn hostile_headers_are_refused_by_their_first_fault() {
    let area = MemoryHeader::default();
    Volume::create(&area, &quick(), b"a").unwrap();
    let good: [u8; HEADER_LEN] = area.to_vec()[..HEADER_LEN].try_into().unwrap();
    let slot = |number: usize, field: usize| 208 + 48 * number + field;
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"X", "Volume is not in LUKS format"),
        (6, &[0, 2], "LUKS version 2 is not supported"),
        (8, b"serpent\0", "cipher 'serpent' is not supported"),
        (40, b"ecb\0", "cipher mode 'ecb' is not supported"),
        (72, b"md5\0", "hash algorithm 'md5' is not supported"),
        (
            72,
            &[b'a'; 32],
            "LUKS header field 'hash-spec' is invalid: 0",
        ),
        (
            8,
            b"a\x1b\0",
            "LUKS header field 'cipher-name' is invalid: 0",
        ),
        (
            108,
            &[0, 0, 0, 48],
            "LUKS header field 'key-bytes' is invalid: 48",
        ),
        (
            108,
            &[255; 4],
            "LUKS header field 'key-bytes' is invalid: 4294967295",
        ),
        (
            164,
            &[0; 4],
            "LUKS header field 'mk-digest-iterations' is invalid: 0",
        ),
        (
            164,
            &[255; 4],
            "LUKS header field 'mk-digest-iterations' is invalid: 4294967295",
        ),
        (
            slot(0, 0),
            &[0; 4],
            "LUKS key slot 0: state 0x0 is neither active nor inactive",
        ),
        (
            slot(0, 4),
            &[0; 4],
            "LUKS key slot 0: 0 iterations are out of range",
        ),
        (
            slot(0, 4),
            &[255; 4],
            "LUKS key slot 0: 4294967295 iterations are out of range",
        ),
        (
            slot(7, 44),
            &[255; 4],
            "LUKS key slot 7: 4294967295 stripes, but LUKS1 has 4000",
        ),
        (
            slot(2, 40),
            &[0, 0, 0, 1],
            "LUKS key slot 2: key material at sector 1 overlaps the header",
        ),
        (
            slot(2, 40),
            &[255; 4],
            "LUKS key slot 2: key material at sector 4294967295 overlaps the payload",
        ),
        (
            slot(1, 40),
            &[0, 0, 0, 9],
            "LUKS key slot 1: key material overlaps that of slot 0",
        ),
        (
            104,
            &[0; 4],
            "LUKS key slot 0: key material at sector 8 overlaps the payload",
        ),
    ];
    for (at, bytes, message) in cases {
        let mut bad = good;
        bad[*at..at + bytes.len()].copy_from_slice(bytes);
        let error = Header::parse(&bad, MAX_ITERATIONS).expect_err(message);
        assert_eq!(error.to_string(), *message);
    }
}

#[test]
fn a_short_area_and_a_low_iteration_limit_are_errors() {
    assert!(matches!(
        read_header(&MemoryHeader::new(vec![0; 100])),
        Err(Error::Read {
            offset: 0,
            length: 592,
            ..
        })
    ));
    let area = MemoryHeader::default();
    Volume::create(&area, &quick(), b"a").unwrap();
    assert!(matches!(
        Volume::open_within(&area, b"a", 10),
        Err(Error::Field { .. })
    ));
    let cut = MemoryHeader::new(area.to_vec()[..8000].to_vec());
    assert!(matches!(
        Volume::open(&cut, b"a"),
        Err(Error::Read { offset: 4096, .. })
    ));
}

/// Fails the `n`th write and all after it.
struct Failing {
    inner: MemoryHeader,
    writes_left: std::cell::Cell<usize>,
}

impl HeaderStorage for Failing {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let left = self
            .writes_left
            .get()
            .checked_sub(1)
            .ok_or(io::ErrorKind::StorageFull)?;
        self.writes_left.set(left);
        self.inner.write_at(offset, buf)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_failed_change_leaves_the_old_keys_working() {
    let area = MemoryHeader::default();
    let mut volume = Volume::create(&area, &quick(), b"a").unwrap();
    for writes in 0..2 {
        let failing = Failing {
            inner: MemoryHeader::new(area.to_vec()),
            writes_left: std::cell::Cell::new(writes),
        };
        let error = volume.add_key(&failing, None, b"b", QUICK).unwrap_err();
        assert!(matches!(error, Error::Write { .. }));
        assert!(
            !volume.header().slots[1].active,
            "not on the medium, so not in memory"
        );
        assert!(Volume::open(&failing.inner, b"a").is_ok());
        assert!(matches!(
            Volume::open(&failing.inner, b"b"),
            Err(Error::Passphrase)
        ));
    }
}

/// Whatever write the medium ends with, one of the two passphrases opens what it holds then.
#[test]
fn a_key_is_replaced_without_a_moment_without_one() {
    let area = MemoryHeader::default();
    Volume::create(&area, &quick(), b"old").unwrap();
    let mut done = false;
    // Material and record of the guard, record and 40 passes of the old key, the new key's two
    // writes, and again 41 to take the guard away.
    for writes in (0..5).chain(42..48).chain([85, 86]) {
        let failing = Failing {
            inner: MemoryHeader::new(area.to_vec()),
            writes_left: std::cell::Cell::new(writes),
        };
        let mut volume = Volume::open(&failing, b"old").unwrap();
        done = volume.replace_key(&failing, 0, b"new", QUICK).is_ok();
        let opens = |passphrase| Volume::open(&failing.inner, passphrase).is_ok();
        assert!(opens(b"old") || opens(b"new"), "lost after {writes} writes");
        if done {
            assert!(opens(b"new") && !opens(b"old"));
            let active = |slot: &strata_luks::Slot| slot.active;
            let left = read_header(&failing.inner).unwrap();
            assert_eq!(left.slots.iter().position(active), Some(0));
            assert_eq!(left.slots.iter().filter(|slot| active(slot)).count(), 1);
            break;
        }
    }
    assert!(done, "never done");
}

#[test]
fn a_key_is_replaced_where_no_slot_is_free() {
    let area = MemoryHeader::default();
    let mut volume = Volume::create(&area, &quick(), b"0").unwrap();
    for slot in 1..SLOTS {
        let passphrase = [b'0' + slot as u8];
        volume.add_key(&area, None, &passphrase, QUICK).unwrap();
    }
    let long = Duration::from_secs(3600);
    assert!(volume.replace_key(&area, 3, b"new", long).is_err());
    assert!(volume.slot_opens(&area, 3, b"3").unwrap(), "erased in vain");
    volume.replace_key(&area, 3, b"new", QUICK).unwrap();
    assert!(volume.slot_opens(&area, 3, b"new").unwrap());
    assert!(!volume.slot_opens(&area, 3, b"3").unwrap());
    assert!(volume.slot_opens(&area, 4, b"4").unwrap());
}
