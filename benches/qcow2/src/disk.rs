//! Single requests.

use std::path::Path;

use strata_qcow2::AlignedBuf;

use crate::measure::{here, random_offsets, report, run};
use crate::peers::{self, Disk};

const SIZE: u64 = 4 << 30;
const ROUNDS: usize = 7;
const COUNT: u32 = 20_000;

fn fresh(path: &Path) {
    run(
        "qemu-img",
        &[
            "create",
            "-q",
            "-f",
            "qcow2",
            path.to_str().expect("a name"),
            "4G",
        ],
    );
}

fn open(who: &str, path: &Path) -> Box<dyn Disk> {
    match who {
        "strata" => Box::new(peers::ours(path, false)),
        "imago" => Box::new(peers::imago(path, false)),
        _ => Box::new(peers::qcow2_rs(path)),
    }
}

/// As a guest's buffers are: to others the kernel copies slower, by as much as chance has it.
fn page_aligned(length: usize, value: u8) -> AlignedBuf {
    let mut buf = AlignedBuf::new(length, 4096).expect("a buffer");
    buf.fill(value);
    buf
}

/// Reads, overwrites and allocating writes of 4 KiB one at a time, and of 1 MiB in a row.
pub fn small_requests(dir: &Path) {
    let path = dir.join("image");
    let peers = ["strata", "imago", "qcow2-rs"];
    let mut results: Vec<(&str, &str, Vec<_>, u32)> = Vec::new();
    for round in 0..ROUNDS {
        for who in peers {
            let mut keep = |what, cost, operations| match results
                .iter_mut()
                .find(|r| r.0 == what && r.1 == who)
            {
                Some(found) => found.2.push(cost),
                None => results.push((what, who, vec![cost], operations)),
            };
            let mut buf = page_aligned(4096, round as u8 + 1);
            let mut large = page_aligned(1 << 20, round as u8 + 1);
            fresh(&path);
            let disk = open(who, &path);
            keep(
                "allocating write 4 KiB",
                here(|| {
                    random_offsets(COUNT, 65536, SIZE).for_each(|at| disk.write(&buf, at));
                }),
                COUNT,
            );
            disk.flush();
            drop(disk);
            fresh(&path);
            let disk = open(who, &path);
            keep(
                "allocating write 1 MiB",
                here(|| (0..500).for_each(|n| disk.write(&large, n << 20))),
                500,
            );
            disk.flush();
            let span = 500 << 20;
            keep(
                "overwrite 4 KiB",
                here(|| {
                    random_offsets(COUNT, 4096, span).for_each(|at| disk.write(&buf, at));
                }),
                COUNT,
            );
            keep(
                "read 4 KiB",
                here(|| {
                    random_offsets(COUNT, 4096, span).for_each(|at| disk.read(&mut buf, at));
                }),
                COUNT,
            );
            keep(
                "read 1 MiB",
                here(|| (0..500).for_each(|n| disk.read(&mut large, n << 20))),
                500,
            );
        }
    }
    for (what, who, costs, operations) in results {
        report(what, who, &costs, operations);
    }
    std::fs::remove_file(&path).expect("an image to remove");
}
