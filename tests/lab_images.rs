//! Disks: what a stock guest's driver writes is there later, on every form of image.

use std::path::Path;
use std::process::Command;

use serde_json::json;
use strata_tests::{Level1, Qmp};

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

#[test]
fn file_systems_live_on_encrypted_images() {
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    let dir = dir.path();
    let secret = "secret,id=s,data=correct horse";
    let create = |format: &str, options: &str, name: &str| {
        let object = ["create", "-q", "--object", secret];
        let rest = ["-f", format, "-o", options, name, "24M"];
        host("qemu-img", &[&object[..], &rest].concat(), dir)
    };
    let encrypt = "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10";
    create("qcow2", encrypt, "image.qcow2");
    create("luks", "key-secret=s,iter-time=10", "volume.luks");
    let level1 = Level1::restore();
    for name in ["image.qcow2", "volume.luks"] {
        put(&level1, &dir.join(name));
    }
    level1.put("/root/passphrase", 0o600, b"correct horse");
    let arguments = [
        "--secret",
        "id=key,file=/root/passphrase",
        "--disk",
        "/root/image.qcow2,format=qcow2,encrypt.key-secret=key",
        "--disk",
        "/root/volume.luks,format=luks,key-secret=key",
    ];
    let mut guest = level1.boot(&arguments).login();
    assert_eq!(guest.ask("cat /sys/block/vd?/size"), "49152\n49152");
    let mut sums = Vec::new();
    for disk in ["vda", "vdb"] {
        guest.ask(&format!("mke2fs -q /dev/{disk} 16384;mkdir /{disk}"));
        guest.ask(&format!(
            "mount -t ext4 /dev/{disk} /{disk} && dd if=/dev/urandom of=/{disk}/f bs=64k count=50 2>/dev/null"
        ));
        guest.ask(&format!("yes 'plain text' | head -n 9999 >/{disk}/t"));
        sums.push(guest.ask(&format!("md5sum </{disk}/f")));
        assert_eq!(guest.ask(&format!("umount /{disk} && echo ok")), "ok");
    }
    assert_eq!(guest.complaints(), "");
    guest.power_off();

    let mut guest = level1.boot(&arguments).login();
    for (disk, sum) in ["vda", "vdb"].into_iter().zip(&sums) {
        guest.ask(&format!(
            "mkdir /{disk};mount -t ext4 -o ro /dev/{disk} /{disk}"
        ));
        assert_eq!(guest.ask(&format!("md5sum </{disk}/f")), *sum, "{disk}");
    }
    guest.power_off();

    // In the eyes of others.
    let text = b"plain text\nplain text\n";
    let has_text = |bytes: &[u8]| bytes.windows(text.len()).any(|window| window == text);
    for (name, options) in [
        ("image.qcow2", "driver=qcow2,encrypt.key-secret=s"),
        ("volume.luks", "driver=luks,key-secret=s"),
    ] {
        let contents = level1.get(&format!("/root/{name}"));
        assert!(!has_text(&contents), "{name}");
        std::fs::write(dir.join(name), contents).unwrap_or_else(|error| panic!("{error}"));
        let image = format!("{options},file.filename={name}");
        let convert = ["convert", "--object", secret, "--image-opts", &image];
        host(
            "qemu-img",
            &[&convert[..], &["-O", "raw", "out"]].concat(),
            dir,
        );
        let contents = std::fs::read(dir.join("out")).unwrap_or_default();
        assert!(has_text(&contents), "{name}");
        host("e2fsck", &["-fn", "out"], dir);
    }
}

#[test]
fn disks_past_the_page_cache_grow_while_they_are_mounted() {
    let level1 = Level1::restore();
    // A file system that knows O_DIRECT, unlike the one in memory.
    level1.sh(
        "modprobe loop && truncate -s 96M /root/fs && mke2fs -q -F /root/fs && mkdir /direct && \
         mount -t ext4 -o loop /root/fs /direct && truncate -s 16M /direct/raw",
    );
    let dir = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
    host(
        "qemu-img",
        &["create", "-q", "-f", "qcow2", "image", "16M"],
        dir.path(),
    );
    put(&level1, &dir.path().join("image"));
    level1.sh("mv /root/image /direct/image");
    let mut guest = level1
        .boot(&[
            "--disk",
            "/direct/raw,cache=direct,id=raw",
            "--disk",
            "/direct/image,format=qcow2,cache=direct,id=image",
            "--qmp",
            "/tmp/qmp",
        ])
        .login();
    // fcntl.h: O_DIRECT is 040000.
    let direct = "cd /proc/$(pidof strata); for f in fd/*; do case $(readlink $f) in /direct/*) \
                  flags=$(sed -n 's/^flags:\t//p' fdinfo/${f#fd/}); \
                  [ $((flags & 040000)) = 0 ] || readlink $f;; esac; done | sort";
    assert_eq!(level1.sh(direct), "/direct/image\n/direct/raw");
    let pipe = std::fs::read(env!("CARGO_BIN_EXE_unix-pipe"));
    let pipe = pipe.unwrap_or_else(|error| panic!("unix-pipe: {error}"));
    let mut qmp = Qmp::connect(&level1, "/tmp/qmp", &pipe);
    guest.ask("dd if=/dev/urandom of=/tmp/x bs=1M count=1 2>/dev/null");
    for (disk, id) in [("vda", "raw"), ("vdb", "image")] {
        guest.ask(&format!("mke2fs -q /dev/{disk};mkdir /{disk}"));
        guest.ask(&format!("mount -t ext4 /dev/{disk} /{disk}"));
        guest.ask(&format!("cp /tmp/x /{disk}/before; sync"));
        qmp.run("block_resize", json!({ "device": id, "size": 24 << 20 }));
        let seen =
            format!("until [ $(cat /sys/block/{disk}/size) = 49152 ]; do usleep 10000; done");
        guest.ask(&seen);
        guest.ask(&format!(
            "cp /tmp/x /{disk}/after; sync; echo 3 >/proc/sys/vm/drop_caches"
        ));
        let same = format!("cmp /tmp/x /{disk}/before && cmp /tmp/x /{disk}/after; echo $?");
        assert_eq!(guest.ask(&same), "0", "{id}");
        // What the file system does not know of yet.
        guest.ask(&format!(
            "dd if=/tmp/x of=/dev/{disk} bs=1M seek=20 conv=fsync 2>/dev/null"
        ));
        let same = format!(
            "dd if=/dev/{disk} bs=1M skip=20 count=1 iflag=direct 2>/dev/null|cmp - /tmp/x; echo $?"
        );
        assert_eq!(guest.ask(&same), "0", "{id}");
        assert_eq!(guest.ask(&format!("umount /{disk} && echo ok")), "ok");
    }
    assert_eq!(guest.complaints(), "");
    let sum = guest.ask("md5sum </tmp/x");
    assert_eq!(
        level1.sh("dd if=/direct/raw bs=1M skip=20 count=1 2>/dev/null|md5sum"),
        sum
    );
    guest.power_off();
}
