//! Disks with encrypted files: the guest sees plain text, no file does.

#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::guest::{Guest, OK};
use common::overlay_of;
use strata_block::{BlockOptions, Cache, Disk, DiskOptions, Error, Format, LuksKey};
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
        let Error::KeyNeeded { path } = &error else {
            panic!("{error}");
        };
        assert_eq!(path, &base, "{error}");
    }
}

/// An image by another program, which opens with `PASSPHRASE` alone.
fn made_by_qemu(path: &Path, options: &str, format: &str) {
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let arguments = [
        "create", "-q", "--object", &secret, "-f", format, "-o", options,
    ];
    let mut create = std::process::Command::new("qemu-img");
    let output = create.args(arguments).arg(path).arg("1M").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

const PASSPHRASE: &str = "correct horse";

#[test]
fn a_passphrase_opens_what_qemu_made_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let (image, volume) = (dir.path().join("image"), dir.path().join("volume"));
    let encrypt = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    made_by_qemu(&image, encrypt, "qcow2");
    made_by_qemu(&volume, "key-secret=s,iter-time=10", "luks");
    let cut = dir.path().join("cut");
    std::fs::write(&cut, &std::fs::read(&volume).unwrap()[..1000]).unwrap();
    let open_cached = |path: &Path, format, passphrase: &str, cache| {
        let key = Arc::new(LuksKey::new(passphrase.as_bytes()));
        let keys: Keys = Arc::new(move |_| Some(Arc::clone(&key) as _));
        let options = DiskOptions {
            cache,
            ..DiskOptions::new(path, format)
        };
        Disk::open_with_keys(&options, keys)
    };
    let open = |path: &Path, format, passphrase: &str| {
        open_cached(path, format, passphrase, Cache::Writeback)
    };
    for (path, format) in [(&image, Format::Qcow2), (&volume, Format::Luks)] {
        let disk = open(path, format, PASSPHRASE).unwrap();
        assert!(disk.is_encrypted() && disk.size() == MIB);
        let mut guest = Guest::new(disk, BlockOptions::default());
        assert_eq!(guest.write(9, &[0xa5; 2048]), OK);
        assert_eq!(guest.flush(), OK);
        drop(guest);
        let stored = std::fs::read(path).unwrap();
        assert!(
            !stored.windows(16).any(|bytes| bytes == [0xa5; 16]),
            "plain text"
        );
        let disk = open(path, format, PASSPHRASE).unwrap();
        let mut guest = Guest::new(disk, BlockOptions::default());
        assert!(guest.read(9, 2048) == Ok(vec![0xa5; 2048]));
        drop(guest);
        let disk = open_cached(path, format, PASSPHRASE, Cache::Direct).unwrap();
        let mut guest = Guest::new(disk, BlockOptions::default());
        assert!(
            guest
                .read(8, 4096)
                .is_ok_and(|data| data[512..2560] == [0xa5; 2048])
        );
        assert_eq!(guest.write(16, &[0x5a; 4096]), OK);
        assert!(guest.read(16, 4096) == Ok(vec![0x5a; 4096]));
        drop(guest);
        let wrong = open(path, format, "wrong").unwrap_err().to_string();
        assert!(wrong.contains("none of its key slots"), "{wrong}");
        let none = Disk::open(&DiskOptions::new(path, format)).unwrap_err();
        assert!(matches!(none, Error::KeyNeeded { .. }), "{none}");
    }
    let header = open(&cut, Format::Luks, PASSPHRASE).unwrap_err();
    assert!(matches!(header, Error::Image { .. }), "{header}");
    let plain = open(&image, Format::Raw, PASSPHRASE).unwrap();
    assert!(!plain.is_encrypted());
}
