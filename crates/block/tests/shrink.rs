//! A disk that becomes smaller beside requests for what it loses.

#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, IoSlice, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::guest::{Guest, IOERR, OK, OUT, header};
use strata_block::{BlockOptions, Disk};
use strata_qcow2::{Node, RawDisk, Storage};

const SIZE: u64 = 1 << 20;
/// Bytes that a pipe holds (pipe(7)).
const FULL: usize = 64 << 10;

/// Bytes that go into a pipe: a write takes until somebody reads.
struct Pipe {
    to: PipeWriter,
    /// Whether a ring may have the descriptor.
    direct: bool,
    len: AtomicU64,
}

impl Pipe {
    /// A pipe that is full.
    fn new(direct: bool) -> (Arc<Self>, PipeReader) {
        let (from, mut to) = io::pipe().unwrap();
        to.write_all(&[0; FULL]).unwrap();
        let len = AtomicU64::new(SIZE);
        (Arc::new(Self { to, direct, len }), from)
    }
}

impl Storage for Pipe {
    fn read_vectored_at(&self, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        bufs.iter().try_for_each(|buf| (&self.to).write_all(buf))
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Ordering::SeqCst))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.len.store(len, Ordering::SeqCst);
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.direct.then(|| self.to.as_fd())
    }
}

/// Shrinks a disk beside a write. False if the write has not begun before.
fn shrink_beside_a_write(direct: bool) -> bool {
    let (pipe, mut from) = Pipe::new(direct);
    let node = Node::Raw(RawDisk::new(pipe.clone()).unwrap());
    let disk = Disk::from_node(Arc::new(node), "pipe", false).unwrap();
    let mut guest = Guest::new(disk, BlockOptions::default());
    let last = SIZE / 512 - 1;
    // Once its thread is there, it takes requests up at once.
    assert_eq!(guest.flush(), OK);
    guest.driver.add(0, &[&header(OUT, last), &[1; 512]], &[1]);
    guest.driver.kick(0);
    std::thread::sleep(Duration::from_millis(200));
    assert!(guest.driver.take_used(0).is_none(), "it can not be done");
    let control = guest.control.clone();
    let waits = std::thread::scope(|scope| {
        let resize = scope.spawn(move || control.resize(SIZE / 2));
        while guest.control.disk().size() == SIZE {
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(50));
        let waits = pipe.len().unwrap() == SIZE;
        if waits {
            // What comes meanwhile is outside already.
            guest.driver.add(0, &[&header(OUT, last), &[2; 512]], &[1]);
            guest.driver.kick(0);
            assert_eq!(guest.driver.wait_used(0).written, [IOERR]);
        }
        from.read_exact(&mut [0; FULL]).unwrap();
        resize.join().unwrap().unwrap();
        waits
    });
    assert_eq!(pipe.len().unwrap(), SIZE / 2);
    let written = guest.driver.wait_used(0).written;
    assert_eq!(written, [if waits { OK } else { IOERR }]);
    assert_eq!(guest.write(0, &[3; 512]), OK);
    assert_eq!(guest.write(SIZE / 1024, &[3; 512]), IOERR);
    waits
}

#[test]
fn a_disk_becomes_smaller_when_what_is_under_way_is_done() {
    for direct in [true, false] {
        // On a busy machine the write may not be taken up in time.
        assert!((0..20).any(|_| shrink_beside_a_write(direct)));
    }
}
