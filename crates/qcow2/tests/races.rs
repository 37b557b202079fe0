//! Operations on the whole image beside requests that are in their midst.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use common::hooked::Hooked;
use common::stopping::Stopping;
use common::{is_sound, reads_as, rounds};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    AmendOptions, Backing, CreateOptions, Error, Extent, Image, NewSnapshot, Node, OpenOptions,
    Preallocation, RawDisk, Storage, rebase,
};

const CLUSTER: u64 = 4096;

/// Guest bytes under one L2 table.
const SPAN: u64 = CLUSTER / 8 * CLUSTER;

/// Nothing here takes this long unless it never ends.
const LIMIT: Duration = Duration::from_secs(20);

fn options(size: u64) -> CreateOptions {
    CreateOptions {
        size,
        cluster_size: CLUSTER,
        ..Default::default()
    }
}

fn created(options: &CreateOptions) -> Arc<dyn Storage> {
    let file: Arc<dyn Storage> = Arc::<MemoryStorage>::default();
    options.create(&file).unwrap();
    file
}

fn open(file: Arc<dyn Storage>) -> Image {
    let options = OpenOptions {
        writable: true,
        ..Default::default()
    };
    Image::open(file, options).unwrap()
}

fn word(file: &dyn Storage, at: u64) -> u64 {
    let mut bytes = [0; 8];
    file.read_at(&mut bytes, at).unwrap();
    u64::from_be_bytes(bytes)
}

fn set_word(file: &dyn Storage, at: u64, word: u64) {
    file.write_at(&word.to_be_bytes(), at).unwrap();
}

/// The L2 table that an L1 entry names.
fn table(file: &dyn Storage, image: &Image, index: u64) -> u64 {
    word(file, image.header().l1_offset + index * 8) & 0x00ff_ffff_ffff_fe00
}

/// A snapshot waits for the requests that are under way. So none of those may wait for the
/// snapshot, not even to say that it would hit metadata.
#[test]
fn a_write_that_hits_metadata_holds_a_snapshot_up_no_more_than_others() {
    let made = Arc::new(MemoryStorage::default());
    let file: Arc<dyn Storage> = Arc::clone(&made) as _;
    options(1 << 20).create(&file).unwrap();
    let image = open(Arc::clone(&file));
    image.write_at(&[1; 8192], 0).unwrap();
    let l1 = image.header().l1_offset;
    image.close().unwrap();
    // The second cluster of the disk is the L1 table.
    set_word(&*file, table(&*file, &image, 0) + 8, l1 | 1 << 63);

    let stopping = Arc::new(Stopping::new(made.to_vec()));
    let image = Arc::new(open(Arc::clone(&stopping) as _));
    image.write_at(&[2; 512], 0).unwrap();
    stopping.stop_after(0);
    let (done, ended) = mpsc::channel();
    let snapshot = {
        let (image, done) = (Arc::clone(&image), done.clone());
        move || {
            let _ = image.create_snapshot(&NewSnapshot::default());
            done.send(()).unwrap();
        }
    };
    thread::spawn(snapshot);
    assert!(stopping.wait());
    thread::spawn(move || {
        let refused = image.write_at(&[3; 512], CLUSTER);
        assert!(matches!(refused, Err(Error::Overlap { .. })), "{refused:?}");
        done.send(()).unwrap();
    });
    thread::sleep(Duration::from_millis(100));
    stopping.let_go();
    for _ in 0..2 {
        ended.recv_timeout(LIMIT).unwrap();
    }
}

/// What was known of a table is forgotten when another comes to lie in its place.
#[test]
fn a_table_in_the_place_of_a_freed_one_starts_empty() {
    let file = created(&options(2 * SPAN));
    let image = open(Arc::clone(&file));
    image.write_at(&[1; 8 * CLUSTER as usize], 0).unwrap();
    image.close().unwrap();
    // Without COPIED the table is copied before it is changed, and its old place is free then.
    let at = image.header().l1_offset;
    let old = table(&*file, &image, 0);
    set_word(&*file, at, old);
    let image = open(Arc::clone(&file));
    reads_as(&image, 1, 0, 8 * CLUSTER);
    image.write_at(&[2; CLUSTER as usize], 0).unwrap();
    image.flush().unwrap();
    image.write_at(&[3; CLUSTER as usize], SPAN).unwrap();
    image.flush().unwrap();
    assert_eq!(table(&*file, &image, 1), old, "it lies somewhere else");
    reads_as(&image, 3, SPAN, CLUSTER);
    reads_as(&image, 0, SPAN + CLUSTER, SPAN - CLUSTER);
    is_sound(&image);
}

/// Readers look at the tables while the flags of deleted snapshots are set right.
#[test]
fn reading_beside_the_end_of_a_snapshot_keeps_no_old_flags() {
    let file = Arc::new(Hooked::new(created(&options(1 << 20))));
    let image = Arc::new(open(Arc::clone(&file) as _));
    image.write_at(&[1; 16 * CLUSTER as usize], 0).unwrap();
    let reader: Weak<Image> = Arc::downgrade(&image);
    file.set(move || {
        if let Some(image) = reader.upgrade() {
            reads_as(&image, 1, CLUSTER, 15 * CLUSTER);
        }
    });
    let id = image.create_snapshot(&NewSnapshot::default()).unwrap();
    image.delete_snapshot(&id).unwrap();
    image.write_at(&[2; CLUSTER as usize], 0).unwrap();
    image.flush().unwrap();
    is_sound(&image);
}

/// Machine state lies behind the disk, wherever that ends while it is written.
#[test]
fn machine_state_stays_out_of_a_disk_that_grows() {
    for _ in 0..rounds() {
        let image = open(created(&options(SPAN)));
        thread::scope(|scope| {
            scope.spawn(|| image.write_vm_state(&[7; 512], 0).unwrap());
            scope.spawn(|| image.resize(2 * SPAN, Preallocation::Off).unwrap());
        });
        reads_as(&image, 0, SPAN, SPAN);
    }
}

/// Calls `operation` while an engine reads or writes, which it must wait for.
fn waits_for_engines(image: &Image, operation: impl FnOnce() + Send, engine: impl FnOnce()) {
    let (done, ended) = mpsc::channel();
    let ticket = image.enter();
    thread::scope(|scope| {
        // What the engine looks up comes first.
        engine();
        scope.spawn(move || {
            operation();
            done.send(()).unwrap();
        });
        let early = ended.recv_timeout(Duration::from_millis(100));
        image.leave(ticket);
        assert!(early.is_err(), "it did not wait");
        ended.recv_timeout(LIMIT).unwrap();
    });
}

/// Who saw that a cluster lies below reads it there, although it has been copied up by now.
#[test]
fn another_backing_waits_for_who_reads_the_old_one() {
    let below: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![5; 1 << 20]));
    let image = Image::open(
        created(&options(1 << 20)),
        OpenOptions {
            writable: true,
            backing: Backing::Node(Arc::new(Node::Raw(RawDisk::new(below).unwrap()))),
            ..Default::default()
        },
    )
    .unwrap();
    let look = || assert_eq!(image.extent(0, 512).unwrap().0, Extent::Unallocated);
    waits_for_engines(&image, || image.set_backing(None), look);
}

/// A bitmap says what was written since it was cleared, added or enabled. A write that began
/// before and ends after that was marked for nothing.
#[test]
fn changes_of_bitmaps_wait_for_writes_that_they_do_not_see() {
    let image = open(created(&options(1 << 20)));
    image.write_at(&[1; 8192], 0).unwrap();
    let write = || assert!(image.overwrite(0, 512).unwrap().is_some());
    waits_for_engines(&image, || image.add_bitmap("b", 4096).unwrap(), write);
    waits_for_engines(&image, || image.clear_bitmap("b").unwrap(), write);
    image.enable_bitmap("b", false).unwrap();
    waits_for_engines(&image, || image.enable_bitmap("b", true).unwrap(), write);
}

/// What is written beyond a new end of the disk must not make the file longer again.
#[test]
fn a_shorter_data_file_waits_for_writes_past_its_end() {
    let data: Arc<dyn Storage> = Arc::<MemoryStorage>::default();
    let file = created(&CreateOptions {
        data_file: Some(("data".into(), Arc::clone(&data))),
        data_file_raw: true,
        ..options(1 << 20)
    });
    let options = OpenOptions {
        writable: true,
        data_file: Some(Arc::clone(&data)),
        ..Default::default()
    };
    let image = Image::open(file, options).unwrap();
    image.write_at(&[1; 512], 64 << 10).unwrap();
    let write = || assert!(image.overwrite(64 << 10, 512).unwrap().is_some());
    let shrink = || image.resize(32 << 10, Preallocation::Off).unwrap();
    waits_for_engines(&image, shrink, write);
}

/// Version 2 has no zero flags, whoever sets some while an image becomes version 2.
#[test]
fn zeroes_beside_a_change_of_version_leave_no_flags() {
    let image = open(created(&options(1 << 20)));
    for _ in 0..rounds() {
        let change = |version| {
            image.amend(&AmendOptions {
                version: Some(version),
                ..Default::default()
            })
        };
        image.write_at(&[1; 1 << 18], 0).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                for cluster in 0..64 {
                    image
                        .write_zeroes(cluster * CLUSTER, CLUSTER, true)
                        .unwrap();
                }
            });
            scope.spawn(|| change(2).unwrap());
        });
        for cluster in 0..64 {
            let extent = image.extent(cluster * CLUSTER, CLUSTER).unwrap().0;
            assert!(!matches!(extent, Extent::Zero { .. }), "cluster {cluster}");
        }
        change(3).unwrap();
    }
}

/// What lies far below a disk that was too short for it shows at no moment of its growth.
#[test]
fn growth_shows_nothing_of_what_lies_below() {
    const OLD: u64 = 64 * CLUSTER + 512;
    const NEW: u64 = 256 * CLUSTER;
    for version in [2, 3] {
        let below: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![5; NEW as usize]));
        let file = Arc::new(Hooked::new(created(&CreateOptions {
            version,
            ..options(OLD)
        })));
        let image = Image::open(
            Arc::clone(&file) as _,
            OpenOptions {
                writable: true,
                backing: Backing::Node(Arc::new(Node::Raw(RawDisk::new(below).unwrap()))),
                ..Default::default()
            },
        )
        .unwrap();
        let node = Arc::new(Node::Qcow2(image));
        let reader = Arc::downgrade(&node);
        file.set(move || {
            if let Some(node) = reader.upgrade() {
                let mut seen = vec![1; (NEW - OLD) as usize];
                node.read_at(&mut seen, OLD).unwrap();
                assert!(seen.iter().all(|byte| *byte == 0), "version {version}");
            }
        });
        node.resize(NEW, Preallocation::Off).unwrap();
        let mut seen = vec![1; (NEW - OLD) as usize];
        node.read_at(&mut seen, OLD).unwrap();
        assert!(seen.iter().all(|byte| *byte == 0), "version {version}");
        let mut seen = vec![1; OLD as usize];
        node.read_at(&mut seen, 0).unwrap();
        assert!(seen.iter().all(|byte| *byte == 5), "version {version}");
        is_sound(node.as_qcow2().unwrap());
    }
}

/// A write that begins where no data is ends before data that others write in place.
#[test]
fn writes_that_meet_between_subclusters_keep_each_other() {
    // Subclusters of 2 KiB: none, and data.
    let file = Arc::new(Hooked::new(created(&CreateOptions {
        cluster_size: 65536,
        extended_l2: true,
        ..options(1 << 20)
    })));
    let image = Arc::new(open(Arc::clone(&file) as _));
    image.write_at(&[1; 2048], 2048).unwrap();
    let other = Arc::downgrade(&image);
    let busy = AtomicBool::new(false);
    file.set(move || {
        if let (Some(image), false) = (other.upgrade(), busy.swap(true, Ordering::SeqCst)) {
            image.write_at(&[3; 512], 3072).unwrap();
        }
    });
    image.write_at(&[2; 1024], 1536).unwrap();
    reads_as(&image, 2, 1536, 1024);
    reads_as(&image, 3, 3072, 512);
    reads_as(&image, 1, 3584, 512);
    reads_as(&image, 0, 0, 1536);
    is_sound(&image);
}

/// What is written while the old backing's data is copied up is newer than that.
#[test]
fn writes_beside_a_rebase_are_kept() {
    const SIZE: u64 = 4 << 20;
    let raw = |byte| {
        let below: Arc<dyn Storage> = Arc::new(MemoryStorage::new(vec![byte; SIZE as usize]));
        Arc::new(Node::Raw(RawDisk::new(below).unwrap()))
    };
    for extended_l2 in [false, true] {
        let image = Image::open(
            created(&CreateOptions {
                cluster_size: 65536,
                extended_l2,
                ..options(SIZE)
            }),
            OpenOptions {
                writable: true,
                backing: Backing::Node(raw(5)),
                ..Default::default()
            },
        )
        .unwrap();
        let written = (0..SIZE).step_by(8192);
        thread::scope(|scope| {
            scope.spawn(|| rebase(&image, Some(raw(6)), Some(("b", "raw")), &mut |_, _| true));
            for at in written.clone() {
                image.write_at(&[7; 4096], at).unwrap();
            }
        });
        for at in written {
            reads_as(&image, 7, at, 4096);
            reads_as(&image, 5, at + 4096, 4096);
        }
        is_sound(&image);
    }
}

/// However many writes come one after another, an operation on the whole image gets its turn.
#[test]
fn operations_on_the_whole_image_get_their_turn() {
    let file = Arc::new(Hooked::new(created(&options(1 << 40))));
    let image = open(Arc::clone(&file) as _);
    image.write_at(&[1; 512], 0).unwrap();
    file.set(|| thread::sleep(Duration::from_millis(1)));
    let (next, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    let deadline = Instant::now() + LIMIT / 4;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                    let cluster = next.fetch_add(1, Ordering::Relaxed);
                    image.write_at(&[1; 512], cluster * CLUSTER).unwrap();
                }
            });
        }
        thread::sleep(Duration::from_millis(20));
        for name in ["a", "b", "c"] {
            image.add_bitmap(name, 1 << 20).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(
            Instant::now() < deadline,
            "its turn came when the writes ended"
        );
    });
}
