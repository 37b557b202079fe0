//! The limit: one thread that keeps a ring full, and does nothing else.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, types};

use crate::{LENGTH, Offsets, Runner, cpu};

pub(crate) struct Bare {
    ring: IoUring,
    _file: File,
    /// Page-aligned, one for each request.
    buffers: Vec<u8>,
    write: bool,
    depth: u16,
    offsets: Offsets,
}

impl Bare {
    pub(crate) fn new(path: &Path, direct: bool, write: bool, depth: u16) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        if direct {
            options.custom_flags(libc::O_DIRECT);
        }
        let file = options.open(path).unwrap();
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .setup_single_issuer()
            .build(256)
            .unwrap();
        ring.submitter()
            .register_files(&[file.as_raw_fd()])
            .unwrap();
        Self {
            ring,
            _file: file,
            buffers: vec![1; (usize::from(depth) + 1) * LENGTH as usize],
            write,
            depth,
            offsets: Offsets::new(),
        }
    }

    fn push(&mut self, slot: u64) {
        let first = self.buffers.as_mut_ptr();
        let first = first.wrapping_add(first.align_offset(LENGTH as usize));
        let buffer = first.wrapping_add((slot * LENGTH) as usize);
        let (file, length, offset) = (types::Fixed(0), LENGTH as u32, self.offsets.next());
        let entry = if self.write {
            opcode::Write::new(file, buffer, length)
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(file, buffer, length)
                .offset(offset)
                .build()
        };
        // SAFETY: the buffer is ours and lives until `run` has seen all completions.
        unsafe { self.ring.submission().push(&entry.user_data(slot)) }.unwrap();
    }
}

impl Runner for Bare {
    fn run(&mut self, until: Instant) -> u64 {
        let mut in_flight = u64::from(self.depth);
        (0..in_flight).for_each(|slot| self.push(slot));
        let mut done = 0;
        while in_flight > 0 {
            self.ring.submit_and_wait(1).unwrap();
            let more = Instant::now() < until;
            while let Some(entry) = { self.ring.completion().next() } {
                assert_eq!(entry.result() as u64, LENGTH);
                done += 1;
                if more {
                    self.push(entry.user_data());
                } else {
                    in_flight -= 1;
                }
            }
        }
        done
    }

    fn cpu(&self) -> Duration {
        cpu::process()
    }
}
