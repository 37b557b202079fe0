//! A flush that failed is not made good by one that succeeds.
#![allow(clippy::unwrap_used)]

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use strata_qcow2::storage::FileStorage;
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, RawDisk, Storage};
use strata_virtio::test_utils::MockDriver;

use super::config::WRITEBACK_AT;
use super::{BlockControl, BlockDevice, BlockOptions};
use crate::disk::Disk;
use crate::slow::lock;

/// A file of which the kernel could not write some pages, which it says once.
struct Lossy {
    file: FileStorage,
    loses: AtomicBool,
    /// Flushes that have begun, and whether they are kept from their end.
    begun: AtomicUsize,
    held: Mutex<bool>,
    released: Condvar,
    /// As O_DIRECT asks for, which has no pages to lose.
    alignment: usize,
}

impl Storage for Lossy {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.file.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.file.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        // The kernel tells the first of them.
        let loses = self.loses.swap(false, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        let held = lock(&self.held);
        drop(self.released.wait_while(held, |held| *held).unwrap());
        if loses {
            return Err(io::Error::from_raw_os_error(libc::EIO));
        }
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

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_fd()
    }
}

impl Lossy {
    fn hold(&self, held: bool) {
        *lock(&self.held) = held;
        self.released.notify_all();
    }
}

fn lossy(alignment: usize) -> Arc<Lossy> {
    let file = FileStorage::from_file(tempfile::tempfile().unwrap()).unwrap();
    Arc::new(Lossy {
        file,
        loses: AtomicBool::new(false),
        begun: AtomicUsize::new(0),
        held: Mutex::new(false),
        released: Condvar::new(),
        alignment,
    })
}

fn raw(file: &Arc<Lossy>) -> Disk {
    file.set_len(1 << 20).unwrap();
    Disk::on_storage(Arc::clone(file) as _, |file| {
        Node::Raw(RawDisk::new(file).unwrap())
    })
}

fn qcow2(file: &Arc<Lossy>) -> Disk {
    let storage: Arc<dyn Storage> = Arc::clone(file) as _;
    let options = CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    };
    options.create(&storage).unwrap();
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    Disk::on_storage(storage, |file| {
        Node::Qcow2(Image::open(file, options).unwrap())
    })
}

fn started(disk: Disk) -> (MockDriver, BlockControl) {
    let options = BlockOptions {
        queues: 4,
        ..BlockOptions::default()
    };
    let device = BlockDevice::new(Arc::new(disk), options).unwrap();
    let control = device.control();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    (driver, control)
}

/// The status of a request: a write (1) of 4 KiB, or a flush (4).
fn request(driver: &mut MockDriver, kind: u8) -> u8 {
    let mut header = [0; 16];
    header[0] = kind;
    let used = match kind {
        1 => driver.request(0, &[&header, &[7; 4096]], &[1]),
        _ => driver.request(0, &[&header], &[1]),
    };
    used.written[0]
}

#[test]
fn no_flush_counts_after_one_that_failed() {
    for make in [raw, qcow2] {
        let file = lossy(1);
        let (mut driver, control) = started(make(&file));
        assert_eq!(request(&mut driver, 1), 0);
        assert_eq!(request(&mut driver, 4), 0);
        // Another one is told what this driver's next flush is not.
        file.loses.store(true, Ordering::Relaxed);
        control.disk().flush().unwrap_err();
        assert_eq!(request(&mut driver, 4), 1);
        control.disk().flush().unwrap_err();
        // Nor is a write durable that is to be.
        driver.write_config(WRITEBACK_AT, 0_u8);
        assert_eq!(request(&mut driver, 1), 1);
    }
}

#[test]
fn without_a_page_cache_a_flush_may_be_tried_again() {
    let file = lossy(512);
    let (mut driver, control) = started(raw(&file));
    file.loses.store(true, Ordering::Relaxed);
    control.disk().flush().unwrap_err();
    assert_eq!(request(&mut driver, 4), 0);
    control.disk().flush().unwrap();
}

/// Adds a flush to a queue, and has it begin or wait for another.
fn begin_flush(driver: &mut MockDriver, queue: u16) {
    let mut header = [0; 16];
    header[0] = 4;
    driver.add(queue, &[&header], &[1]);
    driver.kick(queue);
    std::thread::sleep(Duration::from_millis(20));
}

#[test]
fn no_flush_counts_beside_one_that_fails() {
    for make in [raw, qcow2] {
        let file = lossy(1);
        let (mut driver, _control) = started(make(&file));
        file.loses.store(true, Ordering::Relaxed);
        file.hold(true);
        begin_flush(&mut driver, 0);
        begin_flush(&mut driver, 1);
        // The kernel has nothing to say to the second one, which ends first.
        assert!(driver.take_used(1).is_none());
        file.hold(false);
        for queue in 0..2 {
            assert_eq!(driver.wait_used(queue).written, [1]);
        }
    }
}

#[test]
fn flushes_that_wait_need_one() {
    let file = lossy(1);
    let (mut driver, _control) = started(raw(&file));
    // On a busy machine one may come when the others are done.
    let in_time = (0..50).any(|_| {
        file.begun.store(0, Ordering::Relaxed);
        file.hold(true);
        for queue in 0..4 {
            begin_flush(&mut driver, queue);
        }
        file.hold(false);
        for queue in 0..4 {
            assert_eq!(driver.wait_used(queue).written, [0]);
        }
        file.begun.load(Ordering::Relaxed) == 2
    });
    assert!(in_time, "each has one of its own");
}
