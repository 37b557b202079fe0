//! Whole-image work beside qemu-img.
//!
//! For convert and commit this program starts itself as strata-img, so that both are child
//! processes.

use std::os::unix::fs::FileExt;
use std::path::Path;

use strata_qcow2::{NewSnapshot, Repair};

use crate::measure::{Cost, children, here, random_offsets, report, run, size_verdict, verdict};
use crate::peers;

const ROUNDS: usize = 5;
/// Of conversions: a multiple of the programs.
const CONVERT_ROUNDS: usize = 9;

fn filled(path: &Path, cluster_size: &str) {
    let name = path.to_str().expect("a name");
    let options = format!("cluster_size={cluster_size},preallocation=metadata");
    run(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "-o", &options, name, "4G"],
    );
}

/// A check of 4 GiB in clusters of 4 KiB.
pub fn check(dir: &Path) {
    let path = dir.join("image");
    filled(&path, "4k");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(here(|| {
            let image = peers::ours(&path, false);
            assert!(
                image
                    .check(Repair::Nothing, &mut |_| {})
                    .expect("a check")
                    .is_clean()
            );
        }));
        theirs.push(children(|| {
            run("qemu-img", &["check", "-q", path.to_str().expect("a name")])
        }));
    }
    compare("check 4 GiB of 4 KiB clusters", &[ours, theirs], 1.0);
    std::fs::remove_file(&path).expect("an image to remove");
}

/// Create, apply and delete a snapshot of a full disk of 4 GiB.
pub fn snapshots(dir: &Path) {
    let path = dir.join("image");
    filled(&path, "64k");
    let name = path.to_str().expect("a name");
    let mut costs: Vec<(&str, &str, Vec<_>)> = Vec::new();
    let mut keep = |what, who, cost| match costs.iter_mut().find(|c| c.0 == what && c.1 == who) {
        Some(found) => found.2.push(cost),
        None => costs.push((what, who, vec![cost])),
    };
    for _ in 0..ROUNDS {
        let on_ours = |work: &dyn Fn(&strata_qcow2::Image)| {
            here(|| {
                let image = peers::ours(&path, false);
                work(&image);
                image.close().expect("closing");
            })
        };
        let new = NewSnapshot {
            name: "s".into(),
            ..NewSnapshot::default()
        };
        let create = on_ours(&|image| drop(image.create_snapshot(&new).expect("a snapshot")));
        keep("snapshot create", "strata", create);
        keep(
            "snapshot apply",
            "strata",
            on_ours(&|i| i.apply_snapshot("s").expect("applying")),
        );
        keep(
            "snapshot delete",
            "strata",
            on_ours(&|i| i.delete_snapshot("s").expect("deleting")),
        );
        for (what, flag) in [
            ("snapshot create", "-c"),
            ("snapshot apply", "-a"),
            ("snapshot delete", "-d"),
        ] {
            keep(
                what,
                "qemu-img",
                children(|| run("qemu-img", &["snapshot", flag, "s", name])),
            );
        }
    }
    for (what, who, list) in costs {
        report(what, who, &list, 1);
    }
    std::fs::remove_file(&path).expect("an image to remove");
}

/// Commit of 512 MiB into a base.
pub fn commit(dir: &Path) {
    let (base, top) = (dir.join("base"), dir.join("top"));
    let names = [
        base.to_str().expect("a name"),
        top.to_str().expect("a name"),
    ];
    let make = || {
        run("qemu-img", &["create", "-q", "-f", "qcow2", names[0], "1G"]);
        let create = [
            "create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", names[1],
        ];
        run("qemu-img", &create);
        run("qemu-io", &["-c", "write -q -P 7 0 512M", names[1]]);
    };
    let mut costs = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (program, costs) in [Program::Ours, Program::Theirs].iter().zip(&mut costs) {
            make();
            costs.push(program.run(&["commit", "-q", names[1]]));
        }
    }
    compare("commit 512 MiB", &costs, 1.0);
    for name in names {
        std::fs::remove_file(name).expect("an image to remove");
    }
}

/// Who does the work of a command.
#[derive(Clone, Copy)]
enum Program {
    /// This program, started as strata-img.
    Ours,
    Theirs,
    /// This program, started to copy a file's data and no more.
    Plain,
}

impl Program {
    fn run(self, args: &[&str]) -> Cost {
        let this = std::env::current_exe().expect("this program");
        let this = this.to_str().expect("a name");
        let run_with = |program, first: &[&str]| {
            let args = [first, args].concat();
            children(|| run(program, &args))
        };
        match self {
            Program::Ours => run_with(this, &["strata-img"]),
            Program::Theirs => run_with("qemu-img", &[]),
            Program::Plain => run_with(this, &["plain-copy"]),
        }
    }
}

/// Prints the costs of both programs, and keeps what their ratio is.
fn compare(what: &str, costs: &[Vec<Cost>; 2], bar: f64) {
    report(what, "strata", &costs[0], 1);
    report(what, "qemu-img", &costs[1], 1);
    verdict(what, &costs[0], &costs[1], bar);
}

/// Sizes of what is converted.
const CONVERTED: u64 = 4 << 30;
const COMPRESSED: u64 = 1 << 30;

/// Conversions of 4 GiB of mixed data, both ways.
pub fn convert(dir: &Path) {
    let (raw, image, out) = (dir.join("raw"), dir.join("image"), dir.join("out"));
    let [raw, image, out] = [&raw, &image, &out].map(|path| path.to_str().expect("a name"));
    mixed_data(Path::new(raw), CONVERTED);
    let create = ["convert", "-f", "raw", "-O", "qcow2", raw, image];
    run("qemu-img", &create);
    beside(
        "convert raw to qcow2",
        &["-f", "raw", "-O", "qcow2", raw, out],
        0.8,
    );
    beside(
        "convert qcow2 to raw",
        &["-f", "qcow2", "-O", "raw", image, out],
        0.8,
    );
    for path in [raw, image, out] {
        std::fs::remove_file(path).expect("a file to remove");
    }
}

/// Compressed conversions of 1 GiB of mixed data, and back.
pub fn compressed_convert(dir: &Path) {
    let (raw, image, out) = (dir.join("raw"), dir.join("image"), dir.join("out"));
    let [raw, image, out] = [&raw, &image, &out].map(|path| path.to_str().expect("a name"));
    mixed_data(Path::new(raw), COMPRESSED);
    for (kind, option) in [
        ("zlib", "compression_type=zlib"),
        ("zstd", "compression_type=zstd"),
    ] {
        let to = ["-c", "-o", option, "-f", "raw", "-O", "qcow2", raw];
        run("qemu-img", &[&["convert"], &to[..], &[image]].concat());
        let what = format!("convert to {kind}");
        let [ours, theirs] = beside(&what, &[&to[..], &[out]].concat(), 0.6);
        size_verdict(&what, ours, theirs, 1.01);
        let from = ["-f", "qcow2", "-O", "raw", image, out];
        beside(&format!("convert from {kind}"), &from, 0.8);
    }
    for path in [raw, image, out] {
        std::fs::remove_file(path).expect("a file to remove");
    }
}

/// Converts by both programs in turn; the last argument is the target, the one before it the
/// source. Returns the sizes of the targets.
fn beside(what: &str, args: &[&str], bar: f64) -> [u64; 2] {
    let [.., source, target] = args else {
        panic!("no source and target")
    };
    let args = [&["convert"], args].concat();
    let programs = [Program::Ours, Program::Theirs, Program::Plain];
    let mut costs = [const { Vec::new() }; 3];
    let mut sizes = [0; 3];
    for round in 0..CONVERT_ROUNDS {
        // Each begins as often as the others: what one leaves of memory and caches is the next
        // one's start.
        for number in (0..programs.len()).map(|n| (n + round) % programs.len()) {
            // A new file each time: one that is there would be emptied first.
            let _ = std::fs::remove_file(target);
            touch_free_pages(Path::new(target));
            let cost = match programs[number] {
                Program::Plain => Program::Plain.run(&[source, target]),
                program => program.run(&args),
            };
            costs[number].push(cost);
            sizes[number] = std::fs::metadata(target).expect("a file").len();
        }
    }
    let [ours, theirs, plain] = costs;
    compare(what, &[ours, theirs], bar);
    report(what, "(bare copy)", &plain, 1);
    [sizes[0], sizes[1]]
}

/// Uses as much memory as a conversion's target takes, and frees it again, so that all programs
/// start alike. To a host that takes free pages back (free page reporting), the first use of a page
/// costs more than all that is compared here, and who pays for it depends on who waited before.
fn touch_free_pages(target: &Path) {
    use std::io::Write as _;
    let path = target.with_extension("scratch");
    let mut scratch = std::fs::File::create(&path).expect("a scratch file");
    let bytes = vec![1; 2 << 20];
    for _ in 0..(3 << 30) / bytes.len() {
        scratch.write_all(&bytes).expect("a write");
    }
    std::fs::remove_file(&path).expect("a file to remove");
}

/// A sparse file of holes, zeroes, noise and words, in runs of 64 KiB to 4 MiB.
fn mixed_data(path: &Path, size: u64) {
    const WORDS: [&str; 8] = [
        "the ", "disk ", "image ", "cluster ", "of ", "a ", "guest\n", "0x",
    ];
    let file = std::fs::File::create(path).expect("a file");
    file.set_len(size).expect("a size");
    let mut random = random_offsets(u32::MAX, 1, u64::MAX);
    let mut next = || random.next().unwrap_or(0);
    let mut at = 0;
    while at < size {
        let length = ((1 + next() % 64) << 16).min(size - at);
        let mut data = vec![0; length as usize];
        let kind = next() % 10;
        match kind {
            0..=3 => {}
            4..=6 => data
                .chunks_exact_mut(8)
                .for_each(|c| c.copy_from_slice(&next().to_le_bytes())),
            _ => {
                let mut text = Vec::with_capacity(data.len() + 32);
                while text.len() < data.len() {
                    let word = next();
                    text.extend_from_slice(WORDS[(word % 8) as usize].as_bytes());
                    if word & 0x70 == 0 {
                        text.extend_from_slice((word >> 20).to_string().as_bytes());
                    }
                }
                data.copy_from_slice(&text[..length as usize]);
            }
        }
        // Three of ten runs are holes; one is zeroes that take space.
        if kind > 2 {
            file.write_all_at(&data, at).expect("a write");
        }
        at += length;
    }
}
