//! Disks: stock guests that boot from them, write, discard, and are killed.

use strata_tests::{Config, Disks, Guest, Level1};

/// Writes, reads back and compares: with queues of some depth, past the page cache.
const FIO: &str = "fio --name=x --filename=/data --size=16M --rw=randrw --bs=4k --ioengine=libaio \
                   --iodepth=16 --direct=1 --verify=crc32c --verify_fatal=1 --eta=never \
                   --output=/dev/null";

const SIGKILL: u8 = 9;

fn level1() -> Level1 {
    Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    })
}

/// Ends a guest so that its file system needs no journal's replay.
fn unmount_and_power_off(mut guest: Guest<'_>) {
    assert_eq!(guest.ask("sync; mount -o remount,ro /; echo $?"), "0");
    guest.power_off();
}

#[test]
fn the_checks_of_these_tests_find_faults() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    disks.qcow2("disk.qcow2");
    disks.overlay("overlay.qcow2", "disk.qcow2", "qcow2");
    for (name, format) in [
        ("disk.raw", "raw"),
        ("disk.qcow2", "qcow2"),
        ("overlay.qcow2", "qcow2"),
    ] {
        assert_eq!(disks.faults(name, format), "", "{name}");
    }
    // The inode table of the first group is zeroes for a while; its bitmaps lie before it.
    let path = disks.path("disk.raw");
    level1.sh(&format!(
        "dd if=/dev/zero of={path} bs=4096 seek=1 count=64 conv=notrunc 2>/dev/null"
    ));
    assert_ne!(disks.faults("disk.raw", "raw"), "");
}

#[test]
fn guests_boot_from_raw_and_qcow2_and_a_chain_of_three() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    disks.qcow2("disk.qcow2");
    disks.overlay("middle.qcow2", "base.raw", "raw");
    disks.overlay("top.qcow2", "middle.qcow2", "qcow2");
    for (name, format, options) in [
        ("disk.raw", "raw", ""),
        ("disk.qcow2", "qcow2", ""),
        ("top.qcow2", "qcow2", ",backing=on"),
    ] {
        let mut guest = disks.boot(name, format, options).login();
        assert_eq!(guest.ask(&format!("{FIO}; echo $?")), "0", "{name}");
        let sum = guest.ask("md5sum < /data");
        assert_eq!(guest.complaints(), "", "{name}");
        unmount_and_power_off(guest);
        assert_eq!(disks.faults(name, format), "", "{name}");
        // What a guest wrote, the next one reads.
        let mut guest = disks.boot(name, format, options).login();
        assert_eq!(guest.ask("md5sum < /data"), sum, "{name}");
        unmount_and_power_off(guest);
    }
    // No guest wrote to what its overlay stands on.
    assert_eq!(disks.faults("base.raw", "raw"), "");
    assert_eq!(disks.faults("middle.qcow2", "qcow2"), "");
}

#[test]
fn what_was_flushed_survives_a_kill() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    disks.overlay("top.qcow2", "base.raw", "raw");
    for (name, format, options) in [
        ("disk.raw", "raw", ""),
        ("top.qcow2", "qcow2", ",backing=on"),
    ] {
        let mut guest = disks.boot(name, format, options).login();
        let sum = guest.ask(
            "dd if=/dev/urandom of=/kept bs=64k count=64 conv=fsync 2>/dev/null; md5sum < /kept",
        );
        guest.type_line(
            "while :; do dd if=/dev/urandom of=/other bs=64k count=64 conv=fsync 2>/dev/null; done",
        );
        std::thread::sleep(std::time::Duration::from_secs(2));
        guest.signal(SIGKILL);
        guest.ends_with(128 + i32::from(SIGKILL));
        let mut guest = disks.boot(name, format, options).login();
        assert_eq!(guest.ask("md5sum < /kept"), sum, "{name}");
        unmount_and_power_off(guest);
        // The journal was replayed by the boot; nothing else may be wrong.
        assert_eq!(disks.faults(name, format), "", "{name}");
    }
}

#[test]
fn discarded_blocks_return_to_the_host() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    disks.overlay("top.qcow2", "base.raw", "raw");
    for (name, format, options) in [
        ("disk.raw", "raw", ""),
        ("top.qcow2", "qcow2", ",backing=on"),
    ] {
        let mut guest = disks.boot(name, format, options).login();
        guest.ask("dd if=/dev/urandom of=/large bs=1M count=32 conv=fsync 2>/dev/null");
        let before = disks.allocated(name);
        // An image gives clusters back once its tables say durably that they are free: with a flush.
        assert_eq!(
            guest.ask("rm /large; sync; fstrim /; echo $?; touch /flushed; sync"),
            "0",
            "{name}"
        );
        let after = disks.allocated(name);
        assert!(
            after + (24 << 20) < before,
            "{name}: {before} to {after} bytes"
        );
        unmount_and_power_off(guest);
        assert_eq!(disks.faults(name, format), "", "{name}");
    }
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    let sum = format!("md5sum < {}", disks.path("base.raw"));
    let before = level1.sh(&sum);
    let mut guest = disks.boot("base.raw", "raw", ",readonly=on").login();
    assert_eq!(guest.ask("cat /sys/block/vda/ro"), "1");
    assert_ne!(guest.ask("mount -o remount,rw / 2>/dev/null; echo $?"), "0");
    guest.power_off();
    assert_eq!(level1.sh(&sum), before);
}

#[test]
fn a_cloud_init_seed_is_a_disk_with_its_label() {
    let level1 = level1();
    let disks = Disks::new(&level1);
    disks.overlay("top.qcow2", "base.raw", "raw");
    let user_data = disks.path("user-data");
    level1.put(&user_data, 0o600, b"#cloud-config\nhostname: x\n");
    let more = ["--cloud-init", &user_data];
    let mut guest = disks
        .boot_with("top.qcow2", "qcow2", ",backing=on", &more)
        .login();
    // Where ISO 9660 keeps it (ECMA-119 §8.4.7).
    let label = "dd if=/dev/vdb bs=1 skip=32808 count=6 2>/dev/null";
    assert_eq!(guest.ask(label), "cidata");
    assert_eq!(
        guest.ask("mount -t iso9660 -o ro /dev/vdb /mnt; echo $?"),
        "0"
    );
    assert_eq!(
        guest.ask("cat /mnt/user-data"),
        "#cloud-config\nhostname: x"
    );
    assert!(guest.ask("cat /mnt/meta-data").starts_with("instance-id: "));
    unmount_and_power_off(guest);
}
