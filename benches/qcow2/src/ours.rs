//! What only this crate is measured on here.

use std::path::Path;
use std::time::Instant;

use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{CreateOptions, Storage};

use crate::measure::random_offsets;
use crate::peers;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").expect("statm");
    status
        .split(' ')
        .nth(1)
        .and_then(|n| n.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}

fn create(path: &Path, size: u64) {
    let options = FileOptions {
        write: true,
        create: true,
        direct: false,
    };
    let file: std::sync::Arc<dyn Storage> =
        std::sync::Arc::new(FileStorage::open(path, options).expect("a file"));
    CreateOptions {
        size,
        ..CreateOptions::default()
    }
    .create(&file)
    .expect("an image");
}

/// Time and memory to open an image of 1 PiB and read from it once.
pub fn open_of_a_huge_image(dir: &Path) {
    let path = dir.join("huge");
    create(&path, 1 << 50);
    let mut times = Vec::new();
    let before = resident();
    let mut grown = 0;
    for _ in 0..7 {
        let start = Instant::now();
        let image = peers::ours(&path, false);
        image.read_at(&mut [0; 4096], 1 << 49).expect("a read");
        times.push(start.elapsed());
        grown = resident().saturating_sub(before);
    }
    times.sort();
    println!(
        "open of 1 PiB and one read: {:?}, {} KiB more memory",
        times[3],
        grown >> 10
    );
    std::fs::remove_file(&path).expect("an image to remove");
}

/// Memory over 20,000 random reads of an image of 64 GiB.
pub fn memory_of_random_reads(dir: &Path) {
    let path = dir.join("wide");
    create(&path, 64 << 30);
    let image = peers::ours(&path, false);
    for at in random_offsets(3000, 65536, 64 << 30) {
        image.write_at(&[1; 512], at).expect("a write");
    }
    image.close().expect("closing");
    drop(image);
    let image = peers::ours(&path, false);
    let before = resident();
    let mut buf = [0; 4096];
    for at in random_offsets(20_000, 4096, 64 << 30) {
        image.read_at(&mut buf, at).expect("a read");
    }
    println!(
        "20,000 random reads of 64 GiB: {} KiB more memory, {} KiB of tables",
        resident().saturating_sub(before) >> 10,
        image.cache_memory() >> 10
    );
    std::fs::remove_file(&path).expect("an image to remove");
}
