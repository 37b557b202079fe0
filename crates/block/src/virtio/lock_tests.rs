//! No lock lies between a kick and its completion: requests are done while somebody else holds
//! all of them.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use strata_qcow2::storage::FileStorage;
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, Storage};
use strata_virtio::test_utils::MockDriver;

use super::{BlockDevice, BlockOptions};
use crate::disk::Disk;
use crate::slow::lock;

/// Lets flushes through, or keeps them until it is opened.
#[derive(Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
    somebody_waits: AtomicBool,
}

impl Gate {
    fn pass(&self) {
        let closed = lock(&self.closed);
        self.somebody_waits.store(*closed, Ordering::SeqCst);
        drop(self.opened.wait_while(closed, |closed| *closed).unwrap());
    }

    fn set(&self, closed: bool) {
        *lock(&self.closed) = closed;
        self.opened.notify_all();
    }
}

/// A file whose flushes pass the gate.
struct Gated {
    file: FileStorage,
    gate: Arc<Gate>,
}

impl Storage for Gated {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.discard(offset, len)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }
}

fn image(path: &Path, gate: &Arc<Gate>) -> Disk {
    let open = || {
        File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap()
    };
    let storage: Arc<dyn Storage> = Arc::new(Gated {
        file: FileStorage::from_file(open()).unwrap(),
        gate: Arc::clone(gate),
    });
    let options = CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    };
    options.create(&storage).unwrap();
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let node = Node::Qcow2(Image::open(storage, options).unwrap());
    Disk::from_node(Arc::new(node), "gated", false).unwrap()
}

fn header(kind: u8, sector: u8) -> [u8; 16] {
    let mut header = [0; 16];
    header[0] = kind;
    header[8] = sector;
    header
}

#[test]
fn requests_are_done_while_every_lock_is_held() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(image(&dir.path().join("image"), &gate));
    let device = BlockDevice::new(Arc::clone(&disk), BlockOptions::default()).unwrap();
    let shared = Arc::clone(&device.shared);
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);

    let write = |driver: &mut MockDriver, seed: u8| {
        for sector in 0..32 {
            driver.add(0, &[&header(1, sector), &[seed ^ sector; 512]], &[1]);
        }
        driver.kick(0);
        for _ in 0..32 {
            assert_eq!(driver.wait_used(0).written, [0]);
        }
    };
    // These clusters are there now, and the image's metadata waits for a flush.
    write(&mut driver, 1);
    gate.set(true);
    let flush = {
        let disk = Arc::clone(&disk);
        std::thread::spawn(move || disk.flush().unwrap())
    };
    while !gate.somebody_waits.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    // The flush holds the image's lock, and we hold the rest.
    let pool = shared.pool.hold();
    let mailboxes = lock(&shared.mailboxes);
    let mail: Vec<_> = mailboxes.iter().map(|mailbox| mailbox.hold()).collect();
    assert_eq!(mail.len(), 1);

    for round in 0..20 {
        write(&mut driver, round);
        for sector in 0..32 {
            let used = driver.request(0, &[&header(0, sector)], &[512, 1]);
            assert_eq!(used.written[..512], [round ^ sector; 512]);
        }
    }
    assert!(!flush.is_finished());

    drop(mail);
    drop(mailboxes);
    drop(pool);
    gate.set(false);
    flush.join().unwrap();
}
