//! Random command lines through QEMU's programs and through ours, each on copies of the same
//! files: output, messages, exit codes and the disks that come of it must be the same. Needs
//! qemu-utils 10. STRATA_TEST_LONG runs more of them, STRATA_TEST_SEED the one that failed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

mod pair;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use pair::{Pair, qemu_is_there, run};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len() as u64) as usize]
    }

    /// `text` once in so many times, else nothing.
    fn maybe<'a>(&mut self, chances: u64, text: &'a str) -> &'a str {
        if self.one_in(chances) { text } else { "" }
    }
}

const IMAGES: [&str; 4] = ["a", "b", "c", "d"];
const SIZES: [&str; 7] = ["0", "512", "1000", "64k", "1M", "1537k", "3M"];
const NAMES: [&str; 3] = ["one", "two", "3"];

/// Creation options that are mostly possible together.
fn options(random: &mut Random) -> String {
    let mut list: Vec<&str> = vec![random.pick(&[
        "cluster_size=512",
        "cluster_size=4k",
        "cluster_size=16k,extended_l2=on",
        "cluster_size=64k",
    ])];
    if random.one_in(3) {
        list.push(random.pick(&["compat=0.10", "compat=1.1", "compat=v3"]));
    }
    if random.one_in(3) {
        list.push(random.pick(&["refcount_bits=1", "refcount_bits=64", "refcount_bits=16"]));
    }
    if random.one_in(4) {
        list.push("lazy_refcounts=on");
    }
    if random.one_in(4) {
        list.push(random.pick(&["preallocation=metadata", "preallocation=full"]));
    }
    if random.one_in(4) {
        list.push(random.pick(&["compression_type=zstd", "compression_type=zlib"]));
    }
    list.join(",")
}

/// A command line, and the image that it may change.
fn command(random: &mut Random) -> (String, &'static str) {
    let which = random.below(IMAGES.len() as u64) as usize;
    let image = IMAGES[which];
    // Only images before it are below one, so that no chain is a circle.
    let below = IMAGES[random.below(which.max(1) as u64) as usize];
    let name = random.pick(&NAMES);
    let json = random.maybe(2, "--output=json ");
    let line = match random.below(20) {
        0 | 1 => {
            let backing = match which {
                1.. if random.one_in(2) => format!("-b {below} -F qcow2 "),
                _ => String::new(),
            };
            let size = match backing.is_empty() {
                true => random.pick(&SIZES),
                false => random.maybe(2, "2M"),
            };
            let options = options(random);
            format!("qemu-img create -f qcow2 -o {options} {backing}{image} {size}")
        }
        2..=5 => write(random, image),
        6 => {
            let compressed = random.maybe(3, "-c ");
            let options = options(random);
            // Onto itself fails whatever else is wrong; which is told first differs.
            let other = IMAGES[(which + 1 + random.below(3) as usize) % IMAGES.len()];
            let snapshot = match random.one_in(4) {
                true => format!("-l {name} "),
                false => String::new(),
            };
            let sparse = random.maybe(4, "-S 0 ");
            format!(
                "qemu-img convert -O qcow2 {compressed}{sparse}{snapshot}-o {options} {other} {image}"
            )
        }
        7 => {
            let size = random.pick(&["+64k", "1M", "2M", "-64k", "+1", "0"]);
            let shrink = random.maybe(2, "--shrink ");
            let mode = random.pick(&["", "", "--preallocation=metadata ", "--preallocation=full "]);
            format!("qemu-img resize {shrink}{mode}{image} {size}")
        }
        8 => match random.pick(&["none", "unsafe", "safe"]) {
            _ if which == 0 => format!("qemu-img rebase -b '' {image}"),
            "none" => format!("qemu-img rebase -b '' {image}"),
            "unsafe" => format!("qemu-img rebase -u -b {below} -F qcow2 {image}"),
            _ => format!("qemu-img rebase -b {below} -F qcow2 {image}"),
        },
        9 => format!("qemu-img commit {}{image}", random.maybe(3, "-d ")),
        10 | 11 => format!(
            "qemu-img snapshot -{} {name} {image}",
            random.pick(&["c", "a", "d"])
        ),
        12 => format!("qemu-img snapshot -l {image}"),
        13 => {
            let action = random.pick(&[
                "--add",
                "--add -g 512",
                "--remove",
                "--clear",
                "--enable",
                "--disable",
                "--merge two --enable",
                "--add --disable",
            ]);
            format!("qemu-img bitmap {action} {image} {name}")
        }
        14 => {
            let option = random.pick(&[
                "compat=0.10",
                "compat=1.1",
                "lazy_refcounts=on",
                "lazy_refcounts=off",
                "refcount_bits=8",
                "refcount_bits=16",
                "refcount_bits=64",
                "cluster_size=4k",
            ]);
            format!("qemu-img amend -o {option} {image}")
        }
        15 => {
            let format = random.pick(&["raw", "qcow2", "qcow2 -o cluster_size=4k"]);
            format!("qemu-img measure {json}-O {format} {image}")
        }
        16 => format!("qemu-img map {json}{image}"),
        17 => {
            let strict = random.maybe(2, "-s ");
            format!("qemu-img compare {strict}{image} {}", random.pick(&IMAGES))
        }
        18 => format!(
            "qemu-img info {json}{}{image}",
            random.maybe(3, "--backing-chain ")
        ),
        _ => {
            let repair = random.pick(&["", "", "-r leaks ", "-r all "]);
            format!("qemu-img check {json}{repair}{image}")
        }
    };
    (line, image)
}

/// Guest requests; short of the end mostly, and on sectors mostly.
fn write(random: &mut Random, image: &str) -> String {
    let mut line = "qemu-io".to_owned();
    for _ in 0..=random.below(3) {
        let grain = [512, 4096, 65536][random.below(3) as usize];
        let offset = random.below((2 << 20) / grain) * grain + u64::from(random.one_in(8));
        let length = (random.below(16) + 1) * grain;
        let pattern = random.below(4);
        line += &match random.below(6) {
            0 => format!(" -c 'write -z {offset} {length}'"),
            1 => format!(" -c 'write -zu {offset} {length}'"),
            2 => format!(" -c 'discard {offset} {length}'"),
            3 => format!(" -c 'write -c -P {pattern} {} 64k'", offset & !0xffff),
            _ => format!(" -c 'write -P {pattern} {offset} {length}'"),
        };
    }
    format!("{line} {image}")
}

/// Makes the directory `to` hold what `from` holds. Both are copies then, with the same holes: what
/// programs measure and map depends on them.
fn copy(from: &Path, to: &Path) {
    for (from, to) in [(from, to), (to, from)] {
        std::fs::remove_dir_all(to).unwrap();
        std::fs::create_dir(to).unwrap();
        let script = "tar -C \"$0\" -Scf - --hole-detection=seek . | tar -C \"$1\" -xf -";
        let mut shell = Command::new("sh");
        let done = shell.args(["-c", script]).args([from, to]).status();
        assert!(done.unwrap().success());
    }
}

fn names(dir: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// Whether what the command left is the same disk, and sound.
fn judge(pair: &Pair, image: &str) {
    assert_eq!(names(&pair.ours()), names(&pair.theirs()));
    if !pair.ours().join(image).exists() {
        return;
    }
    let [ours, theirs] = [pair.ours(), pair.theirs()].map(|dir| dir.join(image));
    let line = format!("qemu-img compare {} {}", ours.display(), theirs.display());
    let compared = run(None, &pair.ours(), &line);
    let chain = format!("qemu-img info --backing-chain {image}");
    // What neither can open has no content.
    if compared.code == Some(2) && run(None, &pair.theirs(), &chain).code != Some(0) {
        return;
    }
    assert_eq!(compared.stdout, "Images are identical.\n", "{compared:?}");
    let check = format!("qemu-img check -q {image}");
    let [ours, theirs] = [pair.ours(), pair.theirs()].map(|dir| run(None, &dir, &check));
    assert!(ours.code == Some(0) || ours.code == theirs.code, "{ours:?}");
}

fn play(seed: u64, steps: usize) {
    let mut random = Random(seed);
    let pair = Pair::new();
    let mut script = vec!["qemu-img create -f qcow2 a 2M".to_owned()];
    pair.run(&script[0]);
    for _ in 0..steps {
        // Each goes on with what the other has made, too.
        match random.one_in(2) {
            true => copy(&pair.ours(), &pair.theirs()),
            false => copy(&pair.theirs(), &pair.ours()),
        }
        let (line, image) = command(&mut random);
        if excluded(&line) {
            continue;
        }
        script.push(line.clone());
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let [ours, theirs] = pair.run(&line);
            if line.contains("check")
                && theirs.stderr.starts_with("Leaked")
                && ours.stderr.is_empty()
            {
                // Where there are bitmaps, QEMU's may free what its own check calls clean, and
                // write them elsewhere.
                let info = run(None, &pair.ours(), &format!("qemu-img info {image}"));
                assert!(line.contains("-r ") && info.stdout.contains("bitmaps:"));
                judge(&pair, image);
                return copy(&pair.ours(), &pair.theirs());
            }
            if theirs.stderr.contains("doesn't satisfy the constraints") {
                // QEMU's can not open an empty disk with a bitmap that it stored.
                return copy(&pair.theirs(), &pair.ours());
            }
            if theirs.stderr.contains("Lost persistent bitmaps") {
                // QEMU's finds no memory for a bitmap of an empty disk.
                assert_eq!(ours.code, Some(0));
                return copy(&pair.ours(), &pair.theirs());
            }
            if theirs.stderr.contains("Failed to zero out new clusters") {
                // Version 2 has no zero clusters; ours stores zeroes then.
                assert_eq!(ours.code, Some(0));
                return copy(&pair.theirs(), &pair.ours());
            }
            if theirs.stderr.contains("Failed to get \"write\" lock") {
                // Onto what it reads; ours may look at the options first.
                assert_eq!(ours.code, Some(1));
                return copy(&pair.theirs(), &pair.ours());
            }
            if line.contains("compare -s") && theirs.stdout.contains("block status mismatch") {
                // Whether a run ends with the disk is part of QEMU's status, and depends on how
                // much of it one table tells.
                return;
            }
            assert_eq!(ours, theirs, "left: ours, right: QEMU's");
            if line.contains("write -c") && ours.code != Some(0) {
                // QEMU's goes on with clusters behind the one that it refuses.
                copy(&pair.theirs(), &pair.ours());
            }
            let creates = line.contains("img create") || line.contains("img convert");
            if creates && ours.code != Some(0) {
                // What options alone show to be impossible leaves the old file with ours only.
                copy(&pair.theirs(), &pair.ours());
            }
            judge(&pair, image);
        }));
        if told.is_err() {
            panic!("STRATA_TEST_SEED={seed}, after:\n{}", script.join("\n"));
        }
    }
}

/// Where ours differs on purpose.
fn excluded(line: &str) -> bool {
    // Holes within a cluster of a preallocated image: ours takes clusters as a whole, so that no
    // copy becomes a patchwork.
    line.starts_with("qemu-img map")
        // QEMU's makes an image without compressed clusters one for zlib first.
        || line.contains("amend -o compat=0.10")
}

#[test]
fn random_command_lines_do_the_same() {
    if !qemu_is_there() {
        return;
    }
    let long = std::env::var_os("STRATA_TEST_LONG").is_some();
    let seed = std::env::var("STRATA_TEST_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seeds = match (seed, long) {
        (Some(seed), _) => seed..seed + 1,
        (None, true) => 0..60,
        (None, false) => 0..4,
    };
    seeds.for_each(|seed| play(seed, 24));
}
