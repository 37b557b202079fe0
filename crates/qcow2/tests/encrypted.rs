//! Chains with encrypted files, each with a key of its own.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::{Random, file, run};
use strata_luks::Volume;
use strata_qcow2::chain::{self, ChainOptions, FileFormat, Keys};
use strata_qcow2::luks::{self, HeaderArea};
use strata_qcow2::storage::{EncryptedStorage, MemoryStorage};
use strata_qcow2::{
    Cipher, CreateOptions, Error, Format, Image, Node, OpenOptions, Result, Storage, Unlock,
    Unlocked,
};

const SIZE: u64 = 2 << 20;

fn refused(error: strata_luks::Error) -> Error {
    Error::Encryption(error.to_string())
}

struct Passphrase(&'static str);

impl Unlock for Passphrase {
    fn unlock(&self, header: &dyn Storage, _length: u64) -> Result<Unlocked> {
        luks::unlock(header, self.0.as_bytes()).map_err(refused)
    }
}

fn quick() -> strata_luks::CreateOptions {
    strata_luks::CreateOptions {
        iter_time: Duration::from_millis(1),
        ..Default::default()
    }
}

impl Format for Passphrase {
    fn header_length(&self) -> u64 {
        strata_luks::header_area_len(strata_luks::CipherSpec::default())
    }

    fn format(&self, header: &dyn Storage) -> Result<Arc<dyn Cipher>> {
        luks::format(header, &quick(), self.0.as_bytes()).map_err(refused)
    }
}

/// A LUKS file, an encrypted image above it, and a plain one on top; what the guest sees.
fn chain_of_three(dir: &Path) -> Vec<u8> {
    let base = file(&dir.join("base"), true);
    let volume = Volume::create(&HeaderArea(&*base), &quick(), b"base key").unwrap();
    base.set_len(volume.payload_offset() + SIZE).unwrap();
    let mut model = Random(1).bytes(SIZE as usize);
    let payload = EncryptedStorage::open(base, &Passphrase("base key")).unwrap();
    (&payload as &dyn Storage).write_at(&model, 0).unwrap();
    for (name, below, format, key) in [
        ("middle", "base", "luks", Some("middle key")),
        ("top", "middle", "qcow2", None),
    ] {
        let path = dir.join(name);
        let options = CreateOptions {
            size: SIZE,
            backing: Some((below.into(), format.into())),
            luks: key.map(|key| Arc::new(Passphrase(key)) as _),
            ..Default::default()
        };
        options.create(&file(&path, true)).unwrap();
        let options = ChainOptions {
            writable: true,
            keys: Some(keys()),
            ..Default::default()
        };
        let node = chain::open(&path, &options).unwrap();
        let at = 300_000 * (1 + u64::from(key.is_none()));
        let data = Random(at).bytes(200_000);
        node.write_at(&data, at).unwrap();
        node.as_qcow2().unwrap().close().unwrap();
        model[at as usize..at as usize + data.len()].copy_from_slice(&data);
    }
    model
}

fn keys() -> Keys {
    Arc::new(|path: &Path| {
        let key: Arc<dyn Unlock> = match path.file_name()?.to_str()? {
            "base" => Arc::new(Passphrase("base key")),
            "middle" => Arc::new(Passphrase("middle key")),
            _ => return None,
        };
        Some(key)
    })
}

fn read(node: &Node) -> Vec<u8> {
    let mut all = vec![0; node.size() as usize];
    node.read_at(&mut all, 0).unwrap();
    all
}

#[test]
fn every_encrypted_file_of_a_chain_has_its_own_key() {
    let dir = tempfile::tempdir().unwrap();
    let model = chain_of_three(dir.path());
    let top = dir.path().join("top");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let (told, keys) = (Arc::clone(&asked), keys());
    let options = ChainOptions {
        keys: Some(Arc::new(move |path: &Path| {
            told.lock().unwrap().push(path.to_path_buf());
            keys(path)
        })),
        ..Default::default()
    };
    let node = chain::open(&top, &options).unwrap();
    assert!(read(&node) == model);
    for name in ["base", "middle"] {
        assert!(asked.lock().unwrap().contains(&dir.path().join(name)));
    }

    // QEMU reads the same.
    let raw = dir.path().join("raw");
    std::fs::write(&raw, &model).unwrap();
    let name = |name: &str| dir.path().join(name).display().to_string();
    let image = format!(
        "driver=qcow2,file.filename={},backing.driver=qcow2,backing.file.filename={},\
         backing.encrypt.format=luks,backing.encrypt.key-secret=m,backing.backing.driver=luks,\
         backing.backing.key-secret=b,backing.backing.file.filename={}",
        name("top"),
        name("middle"),
        name("base"),
    );
    run(
        "qemu-img",
        &[
            "compare",
            "--object=secret,id=m,data=middle key",
            "--object=secret,id=b,data=base key",
            "--image-opts",
            &image,
            &format!("driver=raw,file.filename={}", name("raw")),
        ],
    );
}

#[test]
fn a_chain_with_a_wrong_or_missing_key_does_not_open() {
    let dir = tempfile::tempdir().unwrap();
    chain_of_three(dir.path());
    for lacking in ["base", "middle"] {
        for wrong in [false, true] {
            let good = keys();
            let options = ChainOptions {
                keys: Some(Arc::new(move |path: &Path| {
                    if path.ends_with(lacking) {
                        wrong.then(|| Arc::new(Passphrase("another")) as _)
                    } else {
                        good(path)
                    }
                })),
                ..Default::default()
            };
            let error = chain::open(&dir.path().join("top"), &options);
            let error = error.err().unwrap();
            let Error::InFile { name, source } = &error else {
                panic!("{error}");
            };
            assert!(Path::new(name).ends_with(lacking), "{error}");
            assert!(matches!(**source, Error::Encryption(_)), "{error}");
        }
    }
    // Neither is a LUKS file taken for raw bytes by a probe.
    let base = file(&dir.path().join("base"), false);
    assert_eq!(FileFormat::probe(&*base).unwrap(), FileFormat::Luks);
    let options = ChainOptions {
        format: None,
        ..Default::default()
    };
    assert!(chain::open(&dir.path().join("base"), &options).is_err());
}

/// Sectors are encrypted as a whole, whatever parts of them are written.
#[test]
fn an_encrypted_storage_is_written_at_any_offset() {
    let memory = Arc::new(MemoryStorage::default());
    let key = Passphrase("key");
    let volume = Volume::create(&HeaderArea(&*memory), &quick(), key.0.as_bytes()).unwrap();
    let payload = volume.payload_offset();
    memory.set_len(payload + SIZE).unwrap();
    let open = || EncryptedStorage::open(Arc::clone(&memory) as _, &key).unwrap();
    let opened = open();
    let storage: &dyn Storage = &opened;
    let mut random = Random(5);
    let mut model = random.bytes(SIZE as usize);
    storage.write_at(&model, 0).unwrap();
    for step in 0..200 {
        let at = random.below(SIZE);
        let length = (1 + random.below([400, 3000, 1_200_000][step % 3])).min(SIZE - at);
        let range = at as usize..(at + length) as usize;
        let data = random.bytes(length as usize);
        storage.write_at(&data, at).unwrap();
        model[range].copy_from_slice(&data);
        let at = random.below(SIZE) as usize;
        let mut seen = vec![0; 700.min(model.len() - at)];
        storage.read_at(&mut seen, at as u64).unwrap();
        assert!(seen == model[at..at + seen.len()], "step {step}");
    }
    let mut seen = vec![0; SIZE as usize];
    (&open() as &dyn Storage).read_at(&mut seen, 0).unwrap();
    assert!(seen == model);
    assert!(storage.read_at(&mut [0; 512], u64::MAX - 100).is_err());
    assert!(storage.write_at(&[0; 512], u64::MAX - 100).is_err());
    let mut stored = vec![0; SIZE as usize];
    (&*memory as &dyn Storage)
        .read_at(&mut stored, payload)
        .unwrap();
    assert!(stored[..512] != model[..512], "not encrypted");

    memory.set_len(payload - 1).unwrap();
    assert!(EncryptedStorage::open(memory, &key).is_err());
}

/// Threads that write parts of one sector each leave those of the others alone.
#[test]
fn parts_of_a_sector_of_an_encrypted_image_are_not_lost() {
    let file: Arc<dyn Storage> = Arc::<MemoryStorage>::default();
    CreateOptions {
        size: 1 << 20,
        luks: Some(Arc::new(Passphrase("key"))),
        ..Default::default()
    }
    .create(&file)
    .unwrap();
    let options = OpenOptions {
        writable: true,
        unlock: Some(Arc::new(Passphrase("key"))),
        ..Default::default()
    };
    let image = Image::open(file, options).unwrap();
    image.write_at(&[0; 512], 0).unwrap();
    thread::scope(|scope| {
        for part in 0..4 {
            let image = &image;
            scope.spawn(move || {
                for round in (0..=255).cycle().take(5000) {
                    let mut seen = [0; 128];
                    image.write_at(&[round; 128], part * 128).unwrap();
                    image.read_at(&mut seen, part * 128).unwrap();
                    assert!(seen == [round; 128], "round {round}");
                }
            });
        }
    });
}
