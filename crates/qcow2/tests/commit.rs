//! Commits by two threads: all arrives, progress is told in order, and the first error ends both.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::Arc;

use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults, History};
use strata_qcow2::{
    Backing, CreateOptions, Image, Node, OpenOptions, RawDisk, Repair, Storage, commit,
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 40 * MIB;
/// Copied at once.
const STEP: u64 = 512 << 10;

fn image(storage: &Arc<dyn Storage>, cluster_size: u64, backing: Backing) -> Image {
    let options = CreateOptions {
        size: SIZE,
        cluster_size,
        ..Default::default()
    };
    options.create(storage).unwrap();
    let options = OpenOptions {
        writable: true,
        backing,
        ..OpenOptions::default()
    };
    Image::open(Arc::clone(storage), options).unwrap()
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStorage::default())
}

/// A base full of ones, an overlay with some of everything, and what it reads as.
fn chain(base: Arc<Node>) -> (Node, Vec<u8>) {
    base.write_at(&vec![1; SIZE as usize], 0).unwrap();
    let mut model = vec![1; SIZE as usize];
    let top = image(&memory(), 64 << 10, Backing::Node(base));
    let mut put = |at: u64, data: &[u8]| {
        model[at as usize..][..data.len()].copy_from_slice(data);
    };
    // From odd offset to odd offset, over several steps.
    let long: Vec<u8> = (0..9 * MIB + 700).map(|n| (n / 512 % 251) as u8).collect();
    top.write_at(&long, MIB + 300).unwrap();
    put(MIB + 300, &long);
    for n in 0..40 {
        let at = 12 * MIB + n * (64 << 10);
        let data = vec![n as u8 + 50; 64 << 10];
        match n % 4 {
            0 => top.write_at(&data[..5000], at + 100).unwrap(),
            1 | 2 => top.write_compressed(&data, at).unwrap(),
            _ => top.write_zeroes(at, 64 << 10, true).unwrap(),
        }
        match n % 4 {
            0 => put(at + 100, &data[..5000]),
            1 | 2 => put(at, &data),
            _ => put(at, &[0; 64 << 10]),
        }
    }
    top.write_zeroes(20 * MIB, 10 * MIB, true).unwrap();
    put(20 * MIB, &vec![0; 10 * MIB as usize]);
    top.write_at(&[7; 3 << 20], SIZE - 3 * MIB).unwrap();
    put(SIZE - 3 * MIB, &[7; 3 << 20]);
    (Node::Qcow2(top), model)
}

fn contents(node: &Node) -> Vec<u8> {
    let mut all = vec![0; SIZE as usize];
    node.read_at(&mut all, 0).unwrap();
    all
}

fn bases() -> [Arc<Node>; 3] {
    let raw = MemoryStorage::new(vec![0; SIZE as usize]);
    [
        Arc::new(Node::Raw(RawDisk::new(Arc::new(raw)).unwrap())),
        Arc::new(Node::Qcow2(image(&memory(), 4096, Backing::default()))),
        // Steps must not be shorter than a cluster.
        Arc::new(Node::Qcow2(image(&memory(), 2 * MIB, Backing::default()))),
    ]
}

#[test]
fn all_of_an_overlay_arrives() {
    for base in bases() {
        let (top, model) = chain(Arc::clone(&base));
        let mut told = Vec::new();
        commit(&top, &base, &mut |done, all| {
            assert_eq!(all, SIZE);
            told.push(done);
            true
        })
        .unwrap();
        assert!(told.is_sorted() && told.last() == Some(&SIZE), "{told:?}");
        assert!(contents(&base) == model);
        assert!(contents(&top) == model);
        if let Some(image) = base.as_qcow2() {
            assert!(
                image
                    .check(Repair::Nothing, &mut |_| {})
                    .unwrap()
                    .is_clean()
            );
        }
    }
}

/// The second thread may be 8 MiB ahead and in the midst of a step, the first has done one.
#[test]
fn a_commit_that_is_stopped_stops() {
    let [base, ..] = bases();
    let (top, model) = chain(Arc::clone(&base));
    let mut calls = 0;
    let stopped = commit(&top, &base, &mut |_, _| {
        calls += 1;
        std::thread::sleep(std::time::Duration::from_millis(300));
        false
    });
    assert!(stopped.unwrap_err().to_string().contains("cancelled"));
    assert_eq!(calls, 1);
    let left = contents(&base);
    let limit = (2 * MIB + 8 * MIB + 3 * STEP) as usize;
    assert!(left[limit..].iter().all(|byte| *byte == 1));
    assert!(left != model && contents(&top) == model);
}

#[test]
fn an_error_of_either_thread_ends_both() {
    for count in [0, 3, 20] {
        let faults = Arc::new(Faults::new(&Arc::new(History::default())));
        let disk = FaultDisk::new(memory(), &faults);
        let disk: Arc<dyn Storage> = Arc::new(disk);
        let base = Arc::new(Node::Qcow2(image(&disk, 64 << 10, Backing::default())));
        let (top, model) = chain(Arc::clone(&base));
        faults.arm(Fault::NoSpace, count, true);
        let mut told = 0;
        let failed = commit(&top, &base, &mut |done, _| {
            told = done;
            true
        });
        assert!(failed.is_err() && told < SIZE, "{count}");
        assert!(faults.heal() > 0);
        assert!(contents(&top) == model);
        commit(&top, &base, &mut |_, _| true).unwrap();
        assert!(contents(&base) == model);
    }
}
