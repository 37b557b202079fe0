//! A test image, built from the archive or taken from the user's cache, booted by QEMU.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use strata_mkimage::{Cache, Format, Freshness, Outputs, Request, Runner, Suite, Variant};

/// How long a step of an emulated machine may take on a busy host.
const PATIENCE: Duration = Duration::from_secs(150);

/// A machine that QEMU emulates, with its console.
struct Machine {
    qemu: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    heard: String,
}

impl Machine {
    fn start(image: &Outputs, cmdline: &str) -> Self {
        let drive = format!(
            "if=virtio,format={},file={}",
            image.format.name(),
            image.disk.display()
        );
        let mut qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256M"])
            .args([
                "-display",
                "none",
                "-nodefaults",
                "-no-reboot",
                "-serial",
                "stdio",
            ])
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd)
            .args(["-append", cmdline, "-drive", &drive])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("qemu-system-x86 is installed by `cargo lab build --install`");
        let (input, mut console) = (qemu.stdin.take().unwrap(), qemu.stdout.take().unwrap());
        let (sender, output) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = console.read(&mut buffer) {
                if sender.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            qemu,
            input,
            output,
            heard: String::new(),
        }
    }

    /// Waits until the console says `text`, and gives what it said up to there.
    fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.heard.find(text) {
                let rest = self.heard.split_off(at + text.len());
                return std::mem::replace(&mut self.heard, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.output.recv_timeout(left) {
                Ok(bytes) => self.heard += &String::from_utf8_lossy(&bytes),
                Err(_) => panic!("no {text:?} on the console: {}", self.heard),
            }
        }
    }

    /// What a shell command prints.
    fn ask(&mut self, command: &str) -> String {
        self.wait_for("guest# ");
        // The quotes keep the echo of what is typed from being taken for the answer.
        writeln!(self.input, "echo @''[; {command}; echo @'']").unwrap();
        self.wait_for("@[\r\n");
        let answer = self.wait_for("@]\r\n");
        answer
            .trim_end_matches("@]\r\n")
            .replace("\r\n", "\n")
            .trim_end()
            .to_owned()
    }

    fn power_off(mut self) {
        self.wait_for("guest# ");
        writeln!(self.input, "poweroff -f").unwrap();
        assert!(self.qemu.wait().unwrap().success());
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It has ended after a success.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// e2fsck's verdict: 0 is clean.
fn fsck(disk: &Path) -> Option<i32> {
    let mut e2fsck = Command::new("/usr/sbin/e2fsck");
    e2fsck.arg("-fn").arg(disk).status().unwrap().code()
}

fn outputs(format: Format, dir: &Path, suite: Suite) -> (Outputs, &'static str) {
    let cache = Cache::of_user(Runner::new(|step| eprintln!("{step}"), false));
    let request = Request::new(suite, Variant::Test);
    let image = cache.image(&request, Freshness::Cached).unwrap();
    assert_eq!(fsck(&image.disk()), Some(0));
    let disk = dir.join("test.disk");
    let outputs = cache.export(&image, &disk, format, false).unwrap();
    (outputs, image.cmdline())
}

#[test]
fn the_test_image_boots_to_a_shell_with_the_packages_programs() {
    let dir = tempfile::tempdir().unwrap();
    let (image, cmdline) = outputs(Format::Raw, dir.path(), Suite::Bookworm);
    let mut machine = Machine::start(&image, cmdline);
    machine.wait_for("READY");
    assert!(machine.ask("fio --version").starts_with("fio-"));
    assert!(machine.ask("iperf3 --version").starts_with("iperf 3"));
    assert!(machine.ask("ip -V").starts_with("ip utility, iproute2"));
    assert!(machine.ask("mke2fs -V 2>&1").starts_with("mke2fs "));
    assert_eq!(machine.ask("cat /proc/1/comm; id -u"), "init\n0");
    assert_eq!(machine.ask("dmesg -r | grep -E '^<[0-3]>'"), "");
    let job = "fio --name=x --filename=/x --size=2M --rw=randwrite --bs=4k --verify=crc32c \
               --output=/dev/null";
    assert_eq!(machine.ask(&format!("{job}; echo $?")), "0");
    // All modules that are there can be loaded: none lacks another. The kernel loads them itself.
    let modules = "find /lib/modules -name '*.ko*' | sed 's,.*/,,;s,.ko.*,,'";
    let dry = format!("for m in $({modules}); do modprobe -D $m >/dev/null || echo $m; done");
    assert_eq!(machine.ask(&dry), "");
    assert_eq!(machine.ask("ip link add type bridge; echo $?"), "0");
    machine.ask("sync; mount -o remount,ro /");
    machine.power_off();
    assert_eq!(fsck(&image.disk), Some(0));
}

#[test]
fn a_qcow2_image_boots_and_a_wrong_root_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (image, cmdline) = outputs(Format::Qcow2, dir.path(), Suite::Bookworm);
    Machine::start(&image, cmdline).wait_for("READY");
    let wrong = cmdline.replace("/dev/vda", "/dev/vdq");
    let mut machine = Machine::start(&image, &wrong);
    machine.wait_for("no root file system on /dev/vdq");
    machine.wait_for("vda");
}
