//! Files that images name, formats that guests fake, chains that have no end, and tables that
//! point at each other.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use common::{create, file, open};
use strata_qcow2::chain::{self, ChainOptions, FileFormat, MAX_DEPTH};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    CreateOptions, Error, Image, Incompatible, NewSnapshot, Node, OpenOptions, Repair, Storage,
};

const SIZE: u64 = 64 << 10;

fn above(path: &Path, below: &str, format: &str) {
    let backing = Some((below.to_string(), format.to_string()));
    create(
        path,
        &CreateOptions {
            size: SIZE,
            backing,
            ..Default::default()
        },
    );
}

fn read(node: &Node) -> Result<Vec<u8>, Error> {
    let mut all = vec![0; node.size() as usize];
    node.read_at(&mut all, 0).map(|()| all)
}

fn innermost(mut error: Error) -> Error {
    while let Error::InFile { source, .. } = error {
        error = *source;
    }
    error
}

/// What a chain says when it can not be opened.
fn refused(path: &Path, options: &ChainOptions) -> Error {
    match chain::open(path, options) {
        Ok(_) => panic!("{} opens", path.display()),
        Err(error) => innermost(error),
    }
}

/// Takes the format of the backing file out of an image.
fn forget_format(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes
        .windows(4)
        .position(|four| four == 0xE279_2ACA_u32.to_be_bytes())
        .unwrap();
    // An extension that nobody knows.
    bytes[at..at + 4].copy_from_slice(&0x1234_5678_u32.to_be_bytes());
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn a_guest_can_not_turn_its_raw_disk_into_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, raw) = (dir.path().join("secret"), dir.path().join("raw"));
    std::fs::write(&secret, vec![b's'; SIZE as usize]).unwrap();
    // The guest writes a whole overlay over the secret to its disk, from sector 0 on.
    above(&raw, secret.to_str().unwrap(), "raw");
    let mut written = std::fs::read(&raw).unwrap();
    // A disk ends with a whole sector.
    written.resize(written.len().next_multiple_of(512), 0);
    std::fs::write(&raw, &written).unwrap();
    let plain = ChainOptions {
        format: Some(FileFormat::Raw),
        ..Default::default()
    };
    assert_eq!(read(&chain::open(&raw, &plain).unwrap()).unwrap(), written);

    // The same below an overlay that says its format.
    let overlay = dir.path().join("overlay");
    above(&overlay, "raw", "raw");
    let node = chain::open(&overlay, &ChainOptions::default()).unwrap();
    let seen = read(&node).unwrap();
    assert_eq!(seen[..512], written[..512]);
    assert!(!seen.contains(&b's') || written.contains(&b's'));

    // An overlay that does not say it is not followed, unless the caller takes the risk.
    drop(node);
    forget_format(&overlay);
    let error = refused(&overlay, &ChainOptions::default());
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let trusting = ChainOptions {
        probe_backing: true,
        ..Default::default()
    };
    assert!(
        read(&chain::open(&overlay, &trusting).unwrap())
            .unwrap()
            .contains(&b's')
    );
}

#[test]
fn files_that_an_image_names_are_opened_only_when_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (secret, overlay) = (dir.path().join("secret"), dir.path().join("overlay"));
    std::fs::write(&secret, vec![b's'; SIZE as usize]).unwrap();
    above(&overlay, secret.to_str().unwrap(), "raw");
    let node = chain::open(
        &overlay,
        &ChainOptions {
            backing: false,
            ..Default::default()
        },
    )
    .unwrap();
    assert!(matches!(
        innermost(read(&node).unwrap_err()),
        Error::NotAllowed(_)
    ));
    // An image that is opened by its storage follows no name at all.
    let image = open(&overlay);
    assert!(matches!(
        image.read_at(&mut [0; 512], 0),
        Err(Error::NotAllowed(_))
    ));
    assert!(
        image.write_at(&[1; 100], 5).is_err(),
        "the rest of the cluster is unknown"
    );
    drop(image);

    let external = dir.path().join("external");
    let data: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let data_file = Some((secret.to_str().unwrap().to_string(), data));
    create(
        &external,
        &CreateOptions {
            size: SIZE,
            data_file,
            ..Default::default()
        },
    );
    let error = refused(
        &external,
        &ChainOptions {
            data_file: false,
            ..Default::default()
        },
    );
    assert!(matches!(error, Error::NotAllowed(_)), "{error}");
    let result = Image::open(file(&external, false), OpenOptions::default());
    assert!(result.is_err(), "a data file that nobody gave");
    assert_eq!(std::fs::read(&secret).unwrap(), vec![b's'; SIZE as usize]);
}

#[test]
fn names_that_are_no_file_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let overlay = dir.path().join("overlay");
    for name in [
        "json:{\"driver\":\"file\",\"filename\":\"/etc/passwd\"}",
        "nbd://localhost/disk",
        "nbd:unix:/socket",
        "http://localhost/image",
        "fat:rw:/tmp",
        "vvfat:/tmp",
        "ssh://user@localhost/file",
        "blkdebug::image",
    ] {
        above(&overlay, name, "raw");
        let error = refused(&overlay, &ChainOptions::default());
        assert!(matches!(error, Error::NotAllowed(_)), "{name}: {error}");
    }
    for format in ["vmdk", "luks", "nbd", "host_cdrom", ""] {
        above(&overlay, "overlay2", format);
        let result = chain::open(&overlay, &ChainOptions::default());
        assert!(result.is_err(), "format {format:?}");
    }
}

#[test]
fn chains_that_bite_their_tail_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    above(&path("self"), "self", "qcow2");
    above(&path("one"), "two", "qcow2");
    above(&path("two"), "three", "qcow2");
    above(&path("three"), "one", "qcow2");
    above(&path("linked"), "soft", "qcow2");
    symlink(path("linked"), path("soft")).unwrap();
    above(&path("twice"), "hard", "qcow2");
    std::fs::hard_link(path("twice"), path("hard")).unwrap();
    above(
        &path("around"),
        &format!("../{}/around", dir.path().file_name().unwrap().display()),
        "qcow2",
    );
    for name in ["self", "one", "linked", "twice", "around"] {
        let error = refused(&path(name), &ChainOptions::default());
        assert!(error.to_string().contains("loop"), "{name}: {error}");
    }
}

#[test]
fn chains_are_followed_so_far_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let name = |number: usize| dir.path().join(format!("image{number}"));
    let small = CreateOptions {
        size: 4096,
        cluster_size: 4096,
        ..Default::default()
    };
    create(&name(1), &small);
    open(&name(1)).write_at(&[7; 4096], 0).unwrap();
    for number in 2..=MAX_DEPTH + 1 {
        let below = name(number - 1).to_str().unwrap().to_string();
        create(
            &name(number),
            &CreateOptions {
                backing: Some((below, "qcow2".into())),
                ..small.clone()
            },
        );
    }
    // Threads have 2 MiB of stack.
    let longest = name(MAX_DEPTH);
    let seen = std::thread::spawn(move || {
        read(&chain::open(&longest, &ChainOptions::default()).unwrap()).unwrap()
    });
    assert_eq!(seen.join().unwrap(), [7; 4096]);
    let error = refused(&name(MAX_DEPTH + 1), &ChainOptions::default());
    assert!(matches!(error, Error::Invalid(_)), "{error}");
}

fn word(bytes: &[u8], at: u64) -> u64 {
    u64::from_be_bytes(bytes[at as usize..at as usize + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: u64, value: u64) {
    bytes[at as usize..at as usize + 8].copy_from_slice(&value.to_be_bytes());
}

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;

/// An image with every kind of metadata, and where each lies.
fn with_all_metadata() -> (Vec<u8>, Vec<(&'static str, u64)>) {
    let memory = Arc::new(MemoryStorage::default());
    let storage: Arc<dyn Storage> = Arc::clone(&memory) as _;
    let create = CreateOptions {
        size: SIZE,
        cluster_size: 1024,
        ..Default::default()
    };
    create.create(&storage).unwrap();
    let writable = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(storage, writable).unwrap();
    image.write_at(&[1; 4096], 0).unwrap();
    image
        .create_snapshot(&NewSnapshot {
            name: "one".into(),
            ..Default::default()
        })
        .unwrap();
    image.write_at(&[2; 4096], 0).unwrap();
    image.add_bitmap("bits", 512).unwrap();
    image.write_at(&[3; 100], 5000).unwrap();
    image.close().unwrap();
    let header = image.header();
    let bytes = memory.to_vec();
    let extension = header
        .extensions
        .iter()
        .find(|e| e.kind == 0x2385_2875)
        .unwrap();
    let directory = word(&extension.data, 16);
    let table = word(&bytes, directory);
    let snapshot_l1 = word(&bytes, header.snapshots_offset);
    let places = vec![
        ("header", 0),
        ("active L1 table", header.l1_offset),
        ("active L2 table", word(&bytes, header.l1_offset) & OFFSET),
        ("refcount table", header.refcount_table_offset),
        ("refcount block", word(&bytes, header.refcount_table_offset)),
        ("snapshot table", header.snapshots_offset),
        ("inactive L1 table", snapshot_l1),
        ("inactive L2 table", word(&bytes, snapshot_l1) & OFFSET),
        ("bitmap directory", directory),
        ("bitmap table", table),
    ];
    (bytes, places)
}

#[test]
fn data_that_lies_on_metadata_is_never_written() {
    let (bytes, places) = with_all_metadata();
    let l1 = places[1].1;
    let l2 = word(&bytes, l1) & OFFSET;
    // An entry can not name the header: offset 0 means that there is no cluster.
    for (what, place) in places.into_iter().skip(1) {
        let mut bytes = bytes.clone();
        // The guest's third cluster is said to lie there.
        put(&mut bytes, l2 + 16, place | COPIED);
        let before = bytes.clone();
        let memory = Arc::new(MemoryStorage::new(bytes));
        let storage: Arc<dyn Storage> = Arc::clone(&memory) as _;
        let writable = OpenOptions {
            writable: true,
            ..OpenOptions::default()
        };
        let image = Image::open(Arc::clone(&storage), writable.clone()).unwrap();
        let mut seen = [0; 1024];
        let _ = image.read_at(&mut seen, 2048);
        let error = image.write_at(&[0xaa; 1024], 2048).unwrap_err();
        assert!(matches!(error, Error::Overlap { .. }), "{what}: {error}");
        assert!(
            matches!(image.write_at(&[1], 0), Err(Error::Broken)),
            "{what}"
        );
        assert!(matches!(image.flush(), Err(Error::Broken)), "{what}");
        assert!(
            image.header().incompatible.has(Incompatible::CORRUPT),
            "{what}"
        );
        drop(image);
        let after = memory.to_vec();
        let range = place as usize..place as usize + 1024;
        // The directory is marked as in use before the first write.
        let same = what == "bitmap directory" || after[range.clone()] == before[range.clone()];
        assert!(same && !after[range].contains(&0xaa), "{what} was written");
        let again = Image::open(Arc::clone(&storage), writable);
        assert!(matches!(again, Err(Error::Corrupt)), "{what}");
        assert!(
            Image::open(storage, OpenOptions::default()).is_ok(),
            "{what}: still readable"
        );
    }
}

#[test]
fn metadata_is_never_allocated_again() {
    let (bytes, places) = with_all_metadata();
    let block = places[4].1;
    for (what, place) in &places {
        let mut bytes = bytes.clone();
        // Its refcount (16 bits) says that it is free.
        let at = (block + (place / 1024) * 2) as usize;
        bytes[at..at + 2].fill(0);
        let before = bytes.clone();
        let memory = Arc::new(MemoryStorage::new(bytes));
        let writable = OpenOptions {
            writable: true,
            ..OpenOptions::default()
        };
        let image = Image::open(Arc::clone(&memory) as _, writable.clone()).unwrap();
        let _ = image.write_at(&[0xaa; 20 << 10], 16 << 10);
        let _ = image.flush();
        drop(image);
        let after = memory.to_vec();
        let place = *place as usize;
        assert!(
            !after[place..place + 1024].contains(&0xaa),
            "{what} was allocated"
        );
        if *what != "header" {
            // Repaired, it is as good as new.
            let image = Image::open(
                Arc::new(MemoryStorage::new(before)),
                OpenOptions {
                    allow_corrupt: true,
                    ..writable
                },
            )
            .unwrap();
            image.check(Repair::All, &mut |_| {}).unwrap();
            image.write_at(&[0xaa; 20 << 10], 16 << 10).unwrap();
            let mut seen = [0; 100];
            image.read_at(&mut seen, 5000).unwrap();
            assert_eq!(seen, [3; 100], "{what}");
        }
    }
}
