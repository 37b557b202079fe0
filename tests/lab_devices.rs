//! Small devices with stock drivers: console, balloon, sockets, random numbers.

use std::time::{Duration, Instant};

use strata_tests::{CMDLINE, Config, Disks, Guest, Level1};

fn level1() -> Level1 {
    Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    })
}

/// Bytes of the host's memory that `strata` and its guest have.
fn pss(level1: &Level1) -> u64 {
    level1.number("sed -n 's/^Pss: *\\([0-9]*\\) kB/\\1/p' /proc/$(pidof strata)/smaps_rollup")
        << 10
}

/// Waits until `condition` holds.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(120);
    while !condition() {
        assert!(Instant::now() < end, "it does not come that {what}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// `strata run` of the test image on a console of the kernel's command line.
fn argv<'a>(disks: &Disks<'_>, console: &str, more: &[&'a str]) -> Vec<std::borrow::Cow<'a, str>> {
    let own = [
        ("--kernel", disks.path("kernel")),
        ("--initrd", disks.path("initrd")),
        ("--cmdline", format!("{CMDLINE} {console} root=/dev/vda rw")),
        (
            "--disk",
            format!("path={},format=raw", disks.path("disk.raw")),
        ),
    ];
    let mut argv = vec!["strata".into(), "run".into()];
    for (option, value) in own {
        argv.extend([option.into(), value.into()]);
    }
    argv.extend(more.iter().map(|arg| (*arg).into()));
    argv
}

#[test]
fn hvc0_is_a_console() {
    let level1 = level1();
    let disks = Disks::with_packages(&level1, &["socat"]);
    disks.raw("disk.raw");
    let ports = ["--virtio-console", "stdio"];
    let argv = argv(&disks, "console=hvc0", &ports);
    let argv: Vec<&str> = argv.iter().map(AsRef::as_ref).collect();
    // On a terminal of 40 rows and 100 columns.
    let process = level1.spawn(&argv, Some((40, 100)));
    let mut guest = Guest::attach(&level1, process).login();
    assert_eq!(guest.ask("tty"), "/dev/hvc0");
    assert_eq!(guest.ask("stty size"), "40 100");
    let echoed = "x".repeat(300);
    assert_eq!(guest.ask(&format!("echo {echoed}")), echoed);
    // More than the queue holds: the driver sends 16 bytes at a time, and waits for each.
    let lines: Vec<String> = (1..=1000).map(|line| line.to_string()).collect();
    assert_eq!(guest.ask("seq 1000"), lines.join("\n"));
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn named_ports_lead_to_programs() {
    let level1 = level1();
    let disks = Disks::with_packages(&level1, &["socat"]);
    disks.raw("disk.raw");
    let port = [
        "--virtio-console",
        "port=org.strata.0:unix=/image/mnt/agent",
    ];
    let mut guest = disks.boot_with("disk.raw", "raw", "", &port).login();
    assert_eq!(
        guest.ask("cat /sys/class/virtio-ports/*/name"),
        "org.strata.0"
    );
    // One client after another.
    for round in ["first", "second"] {
        let argv = ["chroot", "/image", "socat", "-", "UNIX-CONNECT:/mnt/agent"];
        let client = level1.spawn(&argv, None);
        level1.sh("until pidof socat >/dev/null;do usleep 10000;done");
        client
            .write(format!("to the guest, {round}\n").as_bytes())
            .unwrap();
        assert_eq!(
            guest.ask("read line </dev/$(ls /sys/class/virtio-ports);echo $line"),
            format!("to the guest, {round}")
        );
        let reply = format!("echo from the guest, {round} >/dev/$(ls /sys/class/virtio-ports)");
        guest.type_line(&reply);
        let mut client = client;
        let heard = format!("from the guest, {round}\n");
        client.wait_for(&heard, Duration::from_secs(60)).unwrap();
    }
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}

#[test]
fn a_balloon_and_free_pages_give_memory_back_to_the_host() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    let touch = "dd if=/dev/zero of=/dev/shm/f bs=1M count=100 2>/dev/null;rm /dev/shm/f";
    let mib = 1 << 20;

    // Reporting: what the guest has freed goes back by itself.
    let mut guest = disks
        .boot_with("disk.raw", "raw", "", &["--balloon"])
        .login();
    let before = pss(&level1);
    guest.ask("dd if=/dev/zero of=/dev/shm/f bs=1M count=100 2>/dev/null");
    assert!(pss(&level1) > before + 90 * mib, "the guest has used it");
    guest.ask("rm /dev/shm/f");
    wait_until("free pages are given back", || {
        pss(&level1) < before + 20 * mib
    });
    guest.power_off();

    // Inflating: the driver is loaded after the guest has used its memory.
    let args = ["--balloon", "128M,free-page-reporting=off"];
    let mut guest = disks.boot_with("disk.raw", "raw", "", &args).login();
    guest.ask("modprobe -r virtio_balloon");
    guest.ask(touch);
    let before = pss(&level1);
    guest.ask("modprobe virtio_balloon");
    wait_until("the balloon is full", || pss(&level1) + 90 * mib < before);
    // Deflating before the guest runs out of memory: more than what the balloon has left.
    guest.ask("mount -o remount,size=90% /dev/shm");
    let filled = "dd if=/dev/zero of=/dev/shm/f bs=1M count=150 2>/dev/null;stat -c %s /dev/shm/f";
    assert_eq!(guest.number(filled), 150 * mib);
    assert_eq!(guest.ask("dmesg|grep -c 'Killed process'"), "0");
    guest.power_off();
}

#[test]
fn programs_of_guest_and_host_reach_each_other_by_vsock() {
    let level1 = level1();
    let disks = Disks::with_packages(&level1, &["socat"]);
    disks.raw("disk.raw");
    let args = ["--rng", "--vsock", "cid=7,socket=/image/mnt/v"];
    let mut guest = disks.boot_with("disk.raw", "raw", "", &args).login();

    // From the host: a greeting, a stream, and its end.
    guest.ask("socat VSOCK-LISTEN:1024,fork EXEC:'tr a-z A-Z' & :");
    let host = "chroot /image socat -t 30";
    let dial = format!("(echo CONNECT 1024;echo hello)|{host} - UNIX-CONNECT:/mnt/v");
    wait_until("somebody listens", || !level1.sh(&dial).is_empty());
    for _ in 0..3 {
        let heard = level1.sh(&dial);
        let (greeting, answer) = heard.split_once('\n').unwrap_or_default();
        assert!(greeting.starts_with("OK "), "{heard}");
        assert_eq!(answer, "HELLO");
    }
    assert_eq!(
        level1.sh(&dial.replace("1024", "1999")),
        "",
        "nobody listens"
    );

    // From the guest, with more bytes than any buffer holds, both ways.
    let listen = "UNIX-LISTEN:/mnt/v_52,fork";
    let _echo = level1.spawn(&["chroot", "/image", "socat", listen, "EXEC:cat"], None);
    level1.sh("until test -S /image/mnt/v_52;do usleep 10000;done");
    guest.ask("head -c 3000000 /dev/urandom >/dev/shm/f");
    let sum = guest.ask("md5sum </dev/shm/f");
    let echo = "socat -t 30 - VSOCK-CONNECT:2:52 </dev/shm/f|md5sum";
    assert_eq!(guest.ask(echo), sum);
    let refused = "socat - VSOCK-CONNECT:2:53 </dev/null 2>&1|grep -c reset";
    assert_eq!(guest.ask(refused), "1");

    // The host's random numbers.
    assert_eq!(
        guest.ask("cat /sys/class/misc/hw_random/rng_current"),
        "virtio_rng.0"
    );
    let drawn = guest.ask("head -c 64 /dev/hwrng|md5sum;head -c 64 /dev/hwrng|md5sum");
    let (one, other) = drawn.split_once('\n').unwrap_or_default();
    assert_ne!(one, other);
    assert_eq!(guest.complaints(), "");
    guest.power_off();
}
