//! Stock kernels in every form in which they can be given.

use strata_tests::{Config, Level1};

/// The kernels that strata has made ready for later runs: names and identities.
const CACHED: &str = "cd $XDG_CACHE_HOME/strata/kernels 2>/dev/null && ls *.elf 2>/dev/null \
    | xargs -r stat -c '%n %i %Z'";

#[test]
fn linux_6_1_boots_in_every_form() {
    boots_in_every_form("6.1");
}

#[test]
fn linux_6_12_boots_in_every_form() {
    boots_in_every_form("6.12");
}

fn boots_in_every_form(series: &str) {
    let level1 = Level1::restore();
    let bzimage = format!("/lab/{series}/bzImage");
    let vmlinux = format!("/lab/{series}/vmlinux");
    let initrd = format!("/lab/{series}/initrd");
    let enter = |kernel: &str, mode: &str, entry: &str| {
        let args = [
            "--kernel",
            kernel,
            "--kernel-mode",
            mode,
            "--kernel-entry",
            entry,
            "--initrd",
            &initrd,
        ];
        let mut guest = level1.boot(&args).login();
        assert_eq!(
            guest.ask("uname -r"),
            level1.release(series),
            "{kernel} {mode} {entry}"
        );
        assert_eq!(guest.complaints(), "", "{kernel} {mode} {entry}");
        guest.power_off();
        level1.sh(&format!("{CACHED}||true"))
    };
    let boot = |kernel: &str, mode: &str| enter(kernel, mode, "auto");
    // Unpacked by the guest; an ELF file; taken out of the bzImage, and found again.
    assert_eq!(boot(&bzimage, "bzimage"), "");
    assert_eq!(boot(&vmlinux, "extract"), "");
    let cached = boot(&bzimage, "extract");
    assert_eq!(cached.lines().count(), 1, "{cached}");
    assert_eq!(boot(&bzimage, "extract"), cached);
    // By its PVH entry, which both the file as it was given and the cached one have.
    enter(&vmlinux, "bzimage", "pvh");
    enter(&bzimage, "extract", "pvh");
}

#[test]
fn the_clock_is_right() {
    // On a host under load, Linux loses ticks before it has found its clock: count instructions.
    let level1 = Level1::restore_with(Config {
        icount: true,
        ..Config::default()
    });
    let mut guest = level1.boot(&[]).login();
    let source = "cat /sys/devices/system/clocksource/clocksource0/current_clocksource";
    assert_eq!(guest.ask(source), "kvm-clock");
    let before = level1.number("date +%s");
    let time = guest.number("date +%s");
    let after = level1.number("date +%s");
    // The guest's clock and the host's may tick over at different moments.
    assert!(
        (before - 1..=after + 1).contains(&time),
        "{before} {time} {after}"
    );
    guest.power_off();
}
