//! How machines end, and the exit codes that tell it.

use std::thread::sleep;
use std::time::Duration;

use strata_tests::{CMDLINE, Level1};

const SIGHUP: u8 = 1;
const SIGTERM: u8 = 15;

#[test]
fn power_off_and_reboot_are_told_apart() {
    let level1 = Level1::restore();
    for irqchip in ["kernel", "split"] {
        level1.boot(&["--irqchip", irqchip]).login().power_off();
    }
    // As the kernel chooses, by the keyboard controller, and by the register that the ACPI tables
    // name.
    for method in ["", " reboot=k", " reboot=a"] {
        let cmdline = format!("{CMDLINE}{method}");
        let guest = level1.boot(&["--cmdline", &cmdline]).login();
        guest.type_line("reboot -f");
        guest.ends_with(3);
    }
}

#[test]
fn a_panic_is_told_from_a_reboot() {
    let level1 = Level1::restore();
    // At once, and after a second on the guest's clock.
    for panic in ["panic=-1", "panic=1"] {
        let cmdline = CMDLINE.replace("panic=-1", panic);
        let guest = level1.boot(&["--cmdline", &cmdline]).login();
        guest.type_line("echo c > /proc/sysrq-trigger");
        let console = guest.ends_with(4).stdout_text();
        assert!(console.contains("Kernel panic - not syncing"), "{console}");
    }
    // The end of init is a panic too.
    let guest = level1.boot(&["--cpus", "2", "--irqchip", "split"]).login();
    guest.type_line("exit");
    let console = guest.ends_with(4).stdout_text();
    assert!(console.contains("Attempted to kill init"), "{console}");
}

#[test]
fn a_triple_fault_is_reported() {
    let level1 = Level1::restore();
    let guest = level1
        .boot(&["--cmdline", &format!("{CMDLINE} reboot=t")])
        .login();
    guest.type_line("reboot -f");
    let report = guest.ends_with(4).stderr_text();
    for part in ["triple fault", "rip", "cr3"] {
        assert!(
            report.to_lowercase().contains(part),
            "{part} is not in: {report}"
        );
    }
}

#[test]
fn sigterm_presses_the_power_button() {
    let level1 = Level1::restore();
    for irqchip in ["kernel", "split"] {
        let guest = level1.boot(&["--irqchip", irqchip]).login();
        guest.settle();
        guest.signal(SIGTERM);
        let output = guest.ends_with(0);
        assert!(
            output.stderr_text().contains("power button"),
            "{}",
            output.stderr_text()
        );
        assert!(
            output.stdout_text().contains("Power down"),
            "{}",
            output.stdout_text()
        );
    }
}

#[test]
fn a_guest_that_does_not_listen_is_ended_by_the_second_signal() {
    let level1 = Level1::restore();
    // This initramfs has no driver for the button.
    let deaf = ["--initrd", "/lab/initrd"];
    let mut guest = level1.boot(&deaf).login();
    guest.signal(SIGTERM);
    assert_eq!(guest.ask("echo $((6*7))"), "42", "still alive");
    guest.signal(SIGTERM);
    guest.ends_with(143);

    let guest = level1.boot(&deaf).login();
    guest.signal(SIGHUP);
    guest.ends_with(143);
}

#[test]
fn a_guest_that_halts_for_ever_costs_nothing_and_can_be_ended() {
    let level1 = Level1::restore();
    let mut guest = level1.boot(&["--initrd", "/lab/initrd"]).login();
    guest.type_line("halt -f");
    guest.wait_for("System halted");
    guest.settle();
    let before = guest.cpu_time();
    sleep(Duration::from_secs(3));
    let used = guest.cpu_time() - before;
    assert!(used < Duration::from_millis(300), "{used:?} in 3 s");
    guest.signal(SIGTERM);
    guest.signal(SIGTERM);
    guest.ends_with(143);
}
