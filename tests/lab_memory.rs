//! Memory: how much, and what of the host's lies behind it.

use strata_tests::{Config, Guest, Level1};

const MIB: u64 = 1 << 20;

/// What strata keeps from the guest's usable memory: the BIOS area below 1 MiB.
const RESERVED: u64 = MIB;

/// Where memory is left out for devices below 4 GiB.
const FOUR_GIB: u64 = 1 << 32;

#[test]
fn small_guests_see_their_memory() {
    let level1 = Level1::restore();
    for size in [128, 256] {
        sees_its_memory(&level1, size);
    }
}

#[test]
fn large_guests_see_their_memory_below_and_above_the_gap() {
    let level1 = Level1::restore_with(Config {
        memory_mib: 8192,
        ..Config::default()
    });
    for size in [1024, 6144] {
        sees_its_memory(&level1, size);
    }
}

fn sees_its_memory(level1: &Level1, mib: u64) {
    let mut guest = level1.boot(&["--memory", &format!("{mib}M")]).login();
    let usable = usable(&mut guest);
    let sum: u64 = usable.iter().map(|(start, end)| end + 1 - start).sum();
    assert!(
        (mib * MIB - RESERVED..=mib * MIB).contains(&sum),
        "{usable:x?}"
    );
    let high = usable.iter().any(|(start, _)| *start >= FOUR_GIB);
    assert_eq!(high, mib * MIB > FOUR_GIB, "{usable:x?}");
    // The kernel keeps its own image, the initramfs, and 1/64 for its page structures.
    let total = guest.number("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo") * 1024;
    let least = mib * MIB / 64 * 62 - 56 * MIB;
    assert!((least..=mib * MIB).contains(&total), "MemTotal: {total}");
    assert_eq!(guest.complaints(), "", "{mib} MiB");
    guest.power_off();
}

/// The ranges of usable memory that the guest's kernel was told of: first and last address.
fn usable(guest: &mut Guest<'_>) -> Vec<(u64, u64)> {
    let text =
        guest.ask("cd /sys/firmware/memmap;for i in *;do echo $(cat $i/start $i/end $i/type);done");
    let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    let ram = text
        .lines()
        .filter_map(|line| line.strip_suffix(" System RAM"));
    ram.filter_map(|line| {
        let (start, end) = line.split_once(' ')?;
        Some((address(start)?, address(end)?))
    })
    .collect()
}

#[test]
fn memory_lies_where_it_is_asked_for() {
    let level1 = Level1::restore();
    // Of 2 MiB pages, as many as a guest of 256 MiB has, and none to spare.
    level1.sh("echo 128 > /proc/sys/vm/nr_hugepages");
    assert_eq!(level1.number("cat /proc/sys/vm/nr_hugepages"), 128);
    for (memory, pool, memfd) in [
        ("256M,hugepages=2M", true, false),
        ("256M,hugepages=2M,shared=on", true, true),
        ("256M,shared=on", false, true),
    ] {
        let mut guest = level1.boot(&["--memory", memory]).login();
        let free = level1.number("sed -n 's/HugePages_Free: *//p' /proc/meminfo");
        assert_eq!(free < 128, pool, "{memory}: {free} free huge pages");
        let reserved = level1.number("sed -n 's/HugePages_Rsvd: *//p' /proc/meminfo");
        assert_eq!(
            free - reserved,
            if pool { 0 } else { 128 },
            "{memory}: not all reserved"
        );
        let memfds = level1.number("grep -c '/memfd:.*(deleted)' /proc/$(pidof strata)/maps||true");
        assert_eq!(memfds > 0, memfd, "{memory}");
        assert_eq!(guest.complaints(), "", "{memory}");
        guest.power_off();
        assert_eq!(
            level1.number("sed -n 's/HugePages_Free: *//p' /proc/meminfo"),
            128
        );
    }
}

#[test]
fn memory_that_the_host_has_not_is_refused() {
    let level1 = Level1::restore();
    let run = |memory: &str| {
        let argv = [
            "strata",
            "run",
            "--kernel",
            "/lab/6.1/vmlinux",
            "--memory",
            memory,
        ];
        let output = level1.run(&argv);
        assert_eq!(output.code, 2, "{memory}: {}", output.stderr_text());
        output.stderr_text()
    };
    assert!(
        run("64M,hugepages=2M").contains("huge"),
        "{}",
        run("64M,hugepages=2M")
    );
    assert!(run("900T").contains("memory"), "{}", run("900T"));
}
