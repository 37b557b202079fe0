//! Disks: what a stock guest's driver writes is there later, on every form of image.

use std::path::Path;
use std::process::Command;

use strata_tests::Level1;

/// Runs a program of the host that must succeed, and gives what it prints.
fn host(program: &str, args: &[&str], dir: &Path) -> String {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

/// Places a file of the host in level 1, under its own name.
fn put(level1: &Level1, file: &Path) {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let contents = std::fs::read(file).unwrap_or_else(|error| panic!("{name}: {error}"));
    level1.put(&format!("/root/{name}"), 0o644, &contents);
}

#[test]
fn file_systems_live_on_raw_disks_images_and_chains() {
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let dir = dir.path();
    let create = |args: &[&str]| host("qemu-img", &[&["create", "-q", "-f"], args].concat(), dir);
    create(&["raw", "plain.raw", "24M"]);
    create(&["qcow2", "image.qcow2", "24M"]);
    create(&["qcow2", "base.qcow2", "24M"]);
    // What shows through from the lowest of three.
    host(
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 7 20M 1M", "base.qcow2"],
        dir,
    );
    create(&["qcow2", "-b", "base.qcow2", "-F", "qcow2", "middle.qcow2"]);
    create(&["qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2"]);
    let level1 = Level1::restore();
    let files = [
        "plain.raw",
        "image.qcow2",
        "base.qcow2",
        "middle.qcow2",
        "top.qcow2",
    ];
    for name in files {
        put(&level1, &dir.join(name));
    }
    let disks = [
        "--disk",
        "/root/plain.raw,cache=unsafe,serial=PLAIN",
        "--disk",
        "/root/image.qcow2,format=qcow2,queues=2",
        "--disk",
        "/root/top.qcow2,format=qcow2,backing=on,id=top",
    ];

    let mut guest = level1.boot(&disks).login();
    assert_eq!(guest.ask("cat /sys/block/vd?/size"), "49152\n49152\n49152");
    assert_eq!(guest.ask("cat /sys/block/vda/serial"), "PLAIN");
    let sevens = "dd if=/dev/vdc bs=1M skip=20 count=1 2>/dev/null|tr -d '\\7'|wc -c";
    assert_eq!(guest.ask(sevens), "0", "the base's data");
    let mut sums = Vec::new();
    for disk in ["vda", "vdb", "vdc"] {
        guest.ask(&format!("mke2fs -q /dev/{disk} 16384;mkdir /{disk}"));
        guest.ask(&format!("mount -t ext4 /dev/{disk} /{disk} && dd if=/dev/urandom of=/{disk}/f bs=64k count=100 2>/dev/null"));
        sums.push(guest.ask(&format!("md5sum </{disk}/f")));
        assert_eq!(guest.ask(&format!("umount /{disk} && echo ok")), "ok");
    }
    assert_eq!(guest.complaints(), "");
    guest.power_off();

    let mut guest = level1.boot(&disks).login();
    for (disk, sum) in ["vda", "vdb", "vdc"].into_iter().zip(&sums) {
        guest.ask(&format!(
            "mkdir /{disk};mount -t ext4 -o ro /dev/{disk} /{disk}"
        ));
        assert_eq!(guest.ask(&format!("md5sum </{disk}/f")), *sum, "{disk}");
    }
    assert_eq!(guest.ask(sevens), "0", "the base's data");
    guest.power_off();

    // In the eyes of others.
    for name in files {
        let contents = level1.get(&format!("/root/{name}"));
        std::fs::write(dir.join(name), contents).unwrap_or_else(|error| panic!("{error}"));
    }
    for (name, format) in [
        ("plain.raw", "raw"),
        ("image.qcow2", "qcow2"),
        ("top.qcow2", "qcow2"),
    ] {
        if format == "qcow2" {
            host("qemu-img", &["check", "-q", name], dir);
        }
        host(
            "qemu-img",
            &["convert", "-f", format, "-O", "raw", name, "out"],
            dir,
        );
        host("e2fsck", &["-fn", "out"], dir);
    }
}

#[test]
fn a_full_host_pauses_the_machine_until_it_has_room() {
    let level1 = Level1::restore();
    level1.sh("mkdir /full && mount -t tmpfs -o size=6M full /full && truncate -s 16M /full/disk");
    let disk = "/full/disk,on-error=stop,id=data";
    let mut guest = level1
        .boot(&["--disk", disk, "--log-file", "/root/log"])
        .login();
    guest.type_line("dd if=/dev/urandom of=/dev/vda bs=64k count=200 conv=fsync 2>/dev/null;md5sum </dev/vda;echo all ''written");
    level1.sh("until grep -q 'the machine is paused: make room' /root/log;do sleep 1;done");
    guest.settle();
    level1.sh("mount -o remount,size=32M /full");
    guest.signal(18);
    let said = guest.wait_for("all written\r\n");
    let sum = level1.sh("md5sum </full/disk");
    assert!(
        said.contains(sum.trim_end_matches([' ', '-'])),
        "{said} {sum}"
    );
    guest.wait_for("guest# ");
    guest.power_off();
}

#[test]
fn a_limited_disk_takes_its_time_and_holds_up_no_other() {
    let level1 = Level1::restore();
    level1.sh("truncate -s 4M /root/slow /root/quick");
    let mut guest = level1
        .boot(&["--disk", "/root/slow,iops=50", "--disk", "/root/quick"])
        .login();
    // Hundredths of a second by the guest's clock. What is read past the page cache is one request
    // for each block.
    let mut time = |disk: &str, count: u32| {
        guest.number(&format!(
            "a=$(cut -d' ' -f1 /proc/uptime|tr -d .);dd if=/dev/{disk} of=/dev/null bs=4k count={count} \
             iflag=direct 2>/dev/null;b=$(cut -d' ' -f1 /proc/uptime|tr -d .);echo $((b-a))"
        ))
    };
    // The burst is a tenth of a second's: 5 requests at once, then 95 by 50 in a second.
    let slow = time("vda", 100);
    let quick = time("vdb", 100);
    assert!(slow >= 180, "100 requests in {slow} hundredths of a second");
    assert!(quick * 2 < slow, "{quick} beside {slow}");
    guest.power_off();
}

#[test]
fn a_disk_is_one_machine_s() {
    let level1 = Level1::restore();
    level1.sh("truncate -s 1M /root/disk");
    let guest = level1.boot(&["--disk", "/root/disk"]).login();
    let other = level1.run(&[
        "strata",
        "run",
        "--kernel",
        "/lab/6.1/vmlinux",
        "--disk",
        "/root/disk",
    ]);
    assert_eq!(other.code, 2);
    let said = other.stderr_text();
    assert!(
        said.contains("/root/disk is in use by another process"),
        "{said}"
    );
    guest.power_off();
}
