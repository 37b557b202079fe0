//! Disks with encrypted files: the guest sees plain text, no file does.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::guest::{Guest, OK};
use common::overlay_of;
use strata_block::{BlockOptions, Disk, DiskOptions, Error, Format};
use strata_qcow2::chain::Keys;
use strata_qcow2::{Cipher, Result, Storage, Unlock, Unlocked};

const MIB: u64 = 1 << 20;
const PAYLOAD: u64 = 8192;

/// Not a cipher to trust, but one whose text is not plain.
struct Xor;

impl Cipher for Xor {
    fn encrypt(&self, sector: u64, data: &mut [u8]) -> Result<()> {
        for (number, data) in data.chunks_mut(512).enumerate() {
            let key = 0x5a ^ (sector as u8).wrapping_add(number as u8);
            data.iter_mut().for_each(|byte| *byte ^= key);
        }
        Ok(())
    }

    fn decrypt(&self, sector: u64, data: &mut [u8]) -> Result<()> {
        self.encrypt(sector, data)
    }
}

impl Unlock for Xor {
    fn unlock(&self, _header: &dyn Storage, _length: u64) -> Result<Unlocked> {
        Ok(Unlocked {
            cipher: Arc::new(Xor),
            payload: PAYLOAD,
        })
    }
}

/// What a probe takes for a LUKS file, with `data` in it.
fn volume(path: &Path, data: &[u8]) {
    let mut bytes = b"LUKS\xba\xbe".to_vec();
    bytes.resize(PAYLOAD as usize, 0);
    bytes.extend_from_slice(data);
    Xor.encrypt(0, &mut bytes[PAYLOAD as usize..]).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn keys(name: &'static str) -> Keys {
    Arc::new(move |path: &Path| path.ends_with(name).then(|| Arc::new(Xor) as _))
}

#[test]
fn a_guest_reads_and_writes_plain_text() {
    let dir = tempfile::tempdir().unwrap();
    let data: Vec<u8> = (0..MIB).map(|at| (at / 700) as u8).collect();
    let base = dir.path().join("base");
    volume(&base, &data);
    overlay_of(&dir.path().join("top"), MIB, "base", "luks");
    let top = DiskOptions {
        backing: true,
        ..DiskOptions::new(dir.path().join("top"), Format::Qcow2)
    };
    for options in [top, DiskOptions::new(&base, Format::Probe)] {
        let disk = Disk::open_with_keys(&options, keys("base")).unwrap();
        assert_eq!(disk.size(), MIB);
        let mut guest = Guest::new(disk, BlockOptions::default());
        for sector in [0u64, 1, 127, 2000] {
            let start = sector as usize * 512;
            let there = data[start..start + 4096].to_vec();
            assert!(guest.read(sector, 4096) == Ok(there), "sector {sector}");
        }
        let new = [0xc3; 1024];
        assert_eq!(guest.write(129, &new), OK);
        assert_eq!(guest.flush(), OK);
        assert!(guest.read(129, 1024) == Ok(new.to_vec()));
    }
    let stored = std::fs::read(&base).unwrap();
    let written = &stored[PAYLOAD as usize + 129 * 512..][..512];
    assert_eq!(written, [0xc3 ^ 0x5a ^ 129; 512], "not encrypted");
}

#[test]
fn a_disk_without_its_key_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("base");
    volume(&base, &[0; 4096]);
    overlay_of(&dir.path().join("top"), MIB, "base", "luks");
    let options = DiskOptions {
        backing: true,
        ..DiskOptions::new(dir.path().join("top"), Format::Qcow2)
    };
    for opened in [
        Disk::open(&options),
        Disk::open_with_keys(&options, keys("other")),
        Disk::open(&DiskOptions::new(&base, Format::Probe)),
    ] {
        let error = opened.unwrap_err();
        let Error::Image { path, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, &base, "{error}");
    }
}
