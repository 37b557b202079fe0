//! A restored level 1, used as tests use it.

use std::time::{Duration, Instant};

use strata_lab::{Config, Error, Lab, MARKER, Machine, Result, Upload};

const LIMIT: Duration = Duration::from_secs(60);

fn level1() -> Result<Machine> {
    Lab::open(|step| eprintln!("{step}"))?.restore(&Config::default())
}

#[test]
fn output_error_and_exit_code_are_the_commands_own() {
    let machine = level1().unwrap();
    let output = machine
        .run(&["sh", "-c", "echo out; echo err >&2; exit 7"], LIMIT)
        .unwrap();
    assert_eq!(
        (output.code, output.stdout_text(), output.stderr_text()),
        (7, "out\n".into(), "err\n".into())
    );
    let output = machine.run(&["sh", "-c", "kill -9 $$"], LIMIT).unwrap();
    assert_eq!(output.code, 128 + 9);
    let output = machine.run(&["/no/such/program"], LIMIT).unwrap();
    assert_eq!(output.code, 127);
    assert!(
        output.stderr_text().contains("No such file"),
        "{}",
        output.stderr_text()
    );
}

#[test]
fn files_go_in_and_out_byte_for_byte() {
    let machine = level1().unwrap();
    let contents: Vec<u8> = (0..3_000_001u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let file = |path: &str, permissions| Upload {
        path: path.into(),
        permissions,
        contents: contents.clone(),
    };
    machine
        .put(&[file("/root/a/b/data", 0o640), file("/root/run", 0o755)])
        .unwrap();
    assert_eq!(machine.get("/root/a/b/data").unwrap(), contents);
    let modes = machine
        .run(&["stat", "-c", "%a", "/root/a/b/data", "/root/run"], LIMIT)
        .unwrap();
    assert_eq!(modes.stdout_text(), "640\n755\n");
    assert!(matches!(
        machine.get("/root/none"),
        Err(Error::Failed { code: 1, .. })
    ));
}

#[test]
fn programs_run_side_by_side_with_input_and_signals() {
    let machine = level1().unwrap();
    let mut cat = machine.spawn(&["cat"], None).unwrap();
    let mut sleep = machine.spawn(&["sleep", "1000"], None).unwrap();
    cat.write(b"one\n").unwrap();
    assert_eq!(cat.wait_for("one\n", LIMIT).unwrap(), "one\n");
    cat.write(b"two three\n").unwrap();
    assert_eq!(cat.wait_for("two", LIMIT).unwrap(), "two");
    assert_eq!(cat.wait_for("three", LIMIT).unwrap(), " three");
    sleep.signal(15).unwrap();
    assert!(matches!(
        sleep.wait_for("x", LIMIT),
        Err(Error::Failed { code: 143, .. })
    ));
    cat.close_input().unwrap();
    assert_eq!(cat.wait(LIMIT).unwrap().code, 0);
}

#[test]
fn a_terminal_has_its_size_and_takes_control_characters() {
    let machine = level1().unwrap();
    let mut shell = machine.spawn(&["sh"], Some((33, 99))).unwrap();
    shell.write(b"stty size; tty\n").unwrap();
    shell.wait_for("33 99", LIMIT).unwrap();
    shell.wait_for("/dev/pts/", LIMIT).unwrap();
    shell.write(b"sleep 1000\n").unwrap();
    shell.wait_for("sleep 1000", LIMIT).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    shell.write(b"\x03exit 5\n").unwrap();
    assert_eq!(shell.wait(LIMIT).unwrap().code, 5);
}

#[test]
fn a_command_that_hangs_is_given_up_and_leaves_level_1_usable() {
    let machine = level1().unwrap();
    let start = Instant::now();
    let error = machine.run(
        &["sh", "-c", "echo begun; sleep 1000"],
        Duration::from_secs(2),
    );
    match error {
        Err(Error::Timeout { output, .. }) => assert_eq!(output, "begun"),
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() < LIMIT);
    assert_eq!(machine.run(&["true"], LIMIT).unwrap().code, 0);
}

#[test]
fn a_level_1_that_ends_is_reported_with_its_last_words() {
    let machine = level1().unwrap();
    let crash = "echo last words > /dev/kmsg; echo 1 > /proc/sys/kernel/printk; \
                 echo c > /proc/sysrq-trigger";
    match machine.run(&["sh", "-c", crash], LIMIT) {
        Err(Error::Level1 { console, .. }) => assert!(console.contains("panic"), "{console}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        machine.run(&["true"], LIMIT),
        Err(Error::Level1 { .. })
    ));
}

#[test]
fn it_has_kvm_and_what_guests_are_made_of() {
    let machine = level1().unwrap();
    let check = format!(
        "set -e; test -c /dev/kvm; test -c /dev/net/tun; grep -q Y /sys/module/kvm_amd/parameters/npt
         for series in 6.1 6.12; do
             cd /lab/$series; head -c 4 vmlinux | grep -q ELF; test -s bzImage
             zcat initrd | cpio -i --to-stdout init 2>/dev/null | grep -q 'echo {MARKER}'
             zcat initrd | cpio -t 2>/dev/null | grep -q button.ko
         done
         zcat /lab/initrd | cpio -t 2>/dev/null | grep -q busybox"
    );
    let output = machine.run(&["sh", "-c", &check], LIMIT).unwrap();
    assert_eq!(output.code, 0, "{}", output.stderr_text());
}
