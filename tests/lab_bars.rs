//! The bars that no load moves: instructions up to the first entry and to init, exits and faults,
//! memory, also of each idle device, threads, the size of the program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use strata_lab::{Boot, CMDLINE, Cost, Format, Lab, Upload};
use strata_mkimage::{Cache, Freshness, Request, Runner, Suite, Variant};
use strata_tests::{Config, Disks, Level1, strata, strata_img};

const RUN: [&str; 11] = [
    "run",
    "--kernel",
    "{kernel}",
    "--initrd",
    "{initrd}",
    "--cmdline",
    "{cmdline}",
    "--cpus",
    "{cpus}",
    "--memory",
    "{memory}",
];

/// Boots Linux 6.1 with 256 MiB on one vCPU, counting instructions as time.
fn measure(more: &[&str]) -> Cost {
    measure_as(more, |boot| boot)
}

/// The same, of a boot that `change` changes.
fn measure_as(more: &[&str], change: impl FnOnce(Boot) -> Boot) -> Cost {
    let args = RUN.iter().chain(more).map(|arg| (*arg).to_owned());
    let boot = Boot {
        format: Format::Extracted,
        icount: true,
        ..Boot::new(strata(), args.collect())
    };
    let boot = change(boot);
    let lab = Lab::open(|text| eprintln!("lab: {text}"));
    match lab.and_then(|lab| boot.measure(&lab, 1)) {
        Ok(costs) => costs[0].clone(),
        Err(error) => panic!("{error}"),
    }
}

fn check(cost: &Cost) {
    eprintln!("{cost:?}");
    assert_eq!(cost.threads, 2, "threads: one vCPU and the main one");
    assert!(
        cost.npt_faults <= 100,
        "{} nested page faults",
        cost.npt_faults
    );
    assert!(cost.exits <= 1500, "{} exits", cost.exits);
    assert!(
        cost.vmm_pss_kb <= 2500,
        "{} KiB beside the guest's",
        cost.vmm_pss_kb
    );
    // A boot that counted nothing has not been seen.
    assert!(
        cost.exits > 100 && cost.npt_faults > 0 && cost.vmm_pss_kb > 0,
        "{cost:?}"
    );
}

#[test]
fn a_boot_stays_within_its_bars_with_the_in_kernel_controller() {
    let cost = measure(&[]);
    check(&cost);
    // Seconds of the emulator's clock, which counts instructions: 22 and 450 million of them.
    assert!(cost.first_entry_s <= 0.022, "{} s", cost.first_entry_s);
    assert!(cost.marker_s <= 0.45, "{} s", cost.marker_s);
    assert_eq!(cost.mmio_exits, 0, "KVM has the IOAPIC");
}

#[test]
fn a_boot_stays_within_its_bars_with_the_split_controller() {
    let cost = measure(&["--irqchip", "split"]);
    check(&cost);
    assert!(cost.mmio_exits > 0, "strata has the IOAPIC");
}

/// What an idle device may take of the host's memory, in KiB.
const IDLE_DEVICE_KB: u64 = 150;

/// KiB of host memory that the running monitor has beside its guest's: the proportional set size,
/// the rings that it shares with io_uring among it, of all but the guest's memory and the program's
/// own pages, which the host has once; and each thread's stack in the kernel (THREAD_SIZE, 16 KiB).
const BESIDE_GUEST: &str = "awk '\
    /^[0-9a-f]+-/ { writable = $2 ~ /w/; program = !writable && /strata/ } \
    /^Size:/ { guest = writable && $2 >= 32768 } /^Pss:/ && !guest && !program { kb += $2 } \
    /^Threads:/ { kb += 16 * $2 } END { print kb }' \
    /proc/$(pidof strata)/smaps /proc/$(pidof strata)/status";

/// Drivers that have a device.
const BOUND: &str = "ls -d /sys/bus/virtio/drivers/*/virtio*|wc -l";

#[test]
fn an_idle_device_takes_little_memory() {
    let level1 = Level1::restore_with(Config {
        memory_mib: 2048,
        ..Config::default()
    });
    level1.sh("modprobe tun;modprobe bridge;ip link add br0 type bridge;ip link set br0 up");
    let disks = Disks::new(&level1);
    disks.raw("disk.raw");
    level1.sh("cd /tmp && dd if=/dev/zero of=more.raw bs=1M count=16 2>/dev/null");
    level1.sh("cd /tmp && strata-img convert -f raw -O qcow2 more.raw more.qcow2");
    let measure = |more: &[&str]| {
        let mut guest = disks.boot_with("disk.raw", "raw", "", more).login();
        guest.settle();
        let figures = (guest.number(BOUND), level1.number(BESIDE_GUEST));
        guest.power_off();
        figures
    };
    let (drivers, without) = measure(&[]);
    let mut heavy = Vec::new();
    for device in [
        ["--rng", "true"],
        ["--balloon", "0"],
        ["--virtio-console", "unix=/tmp/hvc"],
        ["--vsock", "cid=7,socket=/tmp/vsock"],
        ["--net", "bridge=br0"],
        ["--disk", "path=/tmp/more.raw,format=raw"],
        ["--disk", "path=/tmp/more.qcow2,format=qcow2"],
    ] {
        let (bound, with) = measure(&device);
        assert_eq!(bound, drivers + 1, "{device:?} has a driver");
        let each = with.saturating_sub(without);
        eprintln!("{}: {each} KiB", device.join(" "));
        // A device has a thread: what costs nothing was not measured.
        if !(16..=IDLE_DEVICE_KB).contains(&each) {
            heavy.push((device, each));
        }
    }
    assert!(heavy.is_empty(), "KiB of idle devices: {heavy:?}");
}

/// A chain of three qcow2 disks in level 1, each over the one before. The first has everything.
const CHAIN: [&str; 3] = ["base.qcow2", "middle.qcow2", "top.qcow2"];

/// The test image in a directory, its disk as the first of the chain. Gives its initramfs, which
/// loads the disk's six modules and mounts it.
fn image(dir: &Path) -> PathBuf {
    let cache = Cache::of_user(Runner::new(|step| eprintln!("mkimage: {step}"), false));
    let request = Request::new(Suite::Bookworm, Variant::Test);
    let disk = dir.join(CHAIN[0]);
    let made = cache
        .image(&request, Freshness::Cached)
        .and_then(|image| cache.export(&image, &disk, strata_mkimage::Format::Qcow2, false));
    made.unwrap_or_else(|error| panic!("{error}")).initrd
}

fn overlay(dir: &Path, backing: &str, name: &str) {
    let mut create = Command::new(strata_img());
    create.args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", backing]);
    let status = create.arg(name).current_dir(dir).status();
    assert!(status.is_ok_and(|status| status.success()), "{name}");
}

#[test]
fn a_boot_from_a_qcow2_disk_stays_near_one_from_an_initramfs() {
    let dir = tempfile::tempdir().unwrap();
    let initrd = image(dir.path());
    for pair in CHAIN.windows(2) {
        overlay(dir.path(), pair[0], pair[1]);
    }
    let uploads = CHAIN.map(|name| Upload {
        path: format!("/root/{name}"),
        permissions: 0o644,
        contents: fs::read(dir.path().join(name)).unwrap(),
    });
    let plain = measure(&[]);
    for (below, name) in CHAIN.into_iter().enumerate() {
        let disk = format!("/root/{name},format=qcow2,backing=on");
        let cost = measure_as(&["--disk", &disk], |boot| Boot {
            with: uploads[..=below].to_vec(),
            initrd: Some(initrd.clone()),
            cmdline: format!("{CMDLINE} root=/dev/vda"),
            ..boot
        });
        let of_plain = |of: fn(&Cost) -> f64| of(&cost) / of(&plain);
        let (entry, marker) = (
            of_plain(|cost| cost.first_entry_s),
            of_plain(|cost| cost.marker_s),
        );
        eprintln!("{name}: {entry:.3} and {marker:.3} of an initramfs': {cost:?}");
        // What strata does for the disks before the guest runs.
        assert!(entry <= 1.1, "{name}: {entry}");
        assert!(marker <= 1.15, "{name}: {marker}");
    }
}

#[test]
fn the_program_is_small_and_static() {
    let path = strata();
    let program = fs::read(&path).unwrap();
    assert!(program.len() <= 4_000_000, "{} bytes", program.len());
    assert_ne!(fs::metadata(&path).unwrap().permissions().mode() & 0o111, 0);
    let types = segment_types(&program).unwrap();
    // Neither a dynamic loader nor anything for it to read.
    const PT_LOAD: u32 = 1;
    const PT_DYNAMIC: u32 = 2;
    const PT_INTERP: u32 = 3;
    assert!(types.contains(&PT_LOAD), "{types:?}");
    assert!(
        !types.contains(&PT_INTERP) && !types.contains(&PT_DYNAMIC),
        "{types:?}"
    );
}

/// The types of an ELF file's segments (System V ABI, AMD64 supplement: ELF64, little-endian).
fn segment_types(elf: &[u8]) -> Option<Vec<u32>> {
    let short = |at: usize| Some(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let word = |at: usize| Some(u32::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let (table, size, count) = (word(0x20)? as usize, short(0x36)?, short(0x38)?);
    (0..count)
        .map(|n| word(table + usize::from(n) * usize::from(size)))
        .collect()
}
