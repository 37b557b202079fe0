//! strata-qcow2 beside its peers, in one run, interleaved: CPU time per operation (user and
//! system, of the whole process), medians over rounds; wall time beside it.
//!
//! `strata-bench-qcow2 [MEMORY [DISK]]`: directories on tmpfs (default /dev/shm) and on a disk.

mod disk;
mod engine;
mod measure;
mod ours;
mod peers;
mod tools;

use std::path::PathBuf;

fn main() {
    let directory = std::env::args_os().nth(1).map_or("/dev/shm".into(), PathBuf::from);
    let dir = tempfile::tempdir_in(directory).expect("a directory for images");
    if let Some(disk) = std::env::args_os().nth(2) {
        let dir = tempfile::tempdir_in(disk).expect("a directory for images");
        engine::depth_32(dir.path());
    }
    println!("load {}", std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim());
    disk::small_requests(dir.path());
    ours::open_of_a_huge_image(dir.path());
    ours::memory_of_random_reads(dir.path());
    tools::check(dir.path());
    tools::snapshots(dir.path());
    tools::commit(dir.path());
}
