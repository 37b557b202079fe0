//! strata-qcow2 beside its peers, in one run, interleaved: CPU time per operation (user and
//! system, of the whole process), medians over rounds; wall time beside it.
//!
//! `strata-bench-qcow2 [--only PART,...]... [MEMORY [DISK]]`: directories on tmpfs (default
//! /dev/shm) and on a disk. The parts are named in [`PARTS`]. At the end stand the ratios to
//! qemu-img and whether each meets its bar.

mod disk;
mod engine;
mod measure;
mod ours;
mod peers;
mod plain;
mod tools;

use std::path::Path;

type Part = (&'static str, fn(&Path));

/// What runs in the directory on tmpfs.
const PARTS: [Part; 8] = [
    ("requests", disk::small_requests),
    ("huge", ours::open_of_a_huge_image),
    ("memory", ours::memory_of_random_reads),
    ("check", tools::check),
    ("snapshots", tools::snapshots),
    ("commit", tools::commit),
    ("convert", tools::convert),
    ("compress", tools::compressed_convert),
];

/// What runs in the directory on a disk.
const DISK_PARTS: [Part; 1] = [("engine", engine::depth_32)];

fn main() {
    let (mut only, mut directories) = (Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == "strata-img").is_some() {
        let args: Vec<_> = args.collect();
        let code = strata_img::img::main(&args).unwrap_or_else(|failure| failure.report());
        strata_img::report::flush();
        std::process::exit(i32::from(code));
    }
    if args.next_if(|arg| arg == "plain-copy").is_some() {
        let names: Vec<_> = args.collect();
        return plain::copy(Path::new(&names[0]), Path::new(&names[1]));
    }
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--only" => {
                let names = args.next().expect("names of parts");
                only.extend(names.split(',').map(str::to_owned));
            }
            _ => directories.push(arg),
        }
    }
    let memory = directories.first().map_or("/dev/shm", String::as_str);
    let runs = [
        (Some(memory), &PARTS[..]),
        (directories.get(1).map(String::as_str), &DISK_PARTS[..]),
    ];
    for (directory, parts) in runs {
        let Some(directory) = directory else { continue };
        let dir = tempfile::tempdir_in(directory).expect("a directory for images");
        for (name, part) in parts {
            if only.is_empty() || only.iter().any(|wanted| wanted == name) {
                let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
                println!("{name} (load {})", load.trim());
                part(dir.path());
            }
        }
    }
    measure::summary();
}
