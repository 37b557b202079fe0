//! The least that a program does who copies a file: what no conversion can do without.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use strata_qcow2::AlignedBuf;

const STEP: u64 = 512 << 10;

fn seek(file: &File, offset: u64, whence: libc::c_int) -> Option<u64> {
    // SAFETY: the call takes no pointer, and the descriptor is open.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset as libc::off_t, whence) };
    u64::try_from(found).ok()
}

/// Reads the data of a sparse file and writes it to a new one, by one thread, and looks at none
/// of it.
pub fn copy(from: &Path, to: &Path) {
    let (source, target) = (
        File::open(from).expect("a file"),
        File::create(to).expect("a file"),
    );
    let size = source.metadata().expect("a size").len();
    target.set_len(size).expect("room");
    let mut buf = AlignedBuf::new(STEP as usize, 4096).expect("a buffer");
    let mut end = 0;
    while let Some(start) = seek(&source, end, libc::SEEK_DATA) {
        end = seek(&source, start, libc::SEEK_HOLE).unwrap_or(size);
        let mut at = start;
        while at < end {
            let part = &mut buf[..(STEP - at % STEP).min(end - at) as usize];
            source.read_exact_at(part, at).expect("a read");
            target.write_all_at(part, at).expect("a write");
            at += part.len() as u64;
        }
    }
}
