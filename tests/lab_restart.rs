//! Stock guests that start again in place, with what they had plugged in.

use serde_json::{Value, json};
use strata_tests::{Level1, Qmp};

const SOCKET: &str = "/tmp/qmp";

/// The regions of the disk, which is behind the host bridge.
fn regions(qmp: &mut Qmp) -> Value {
    qmp.run("query-pci", json!({}))[0]["devices"][1]["regions"].clone()
}

#[test]
fn a_guest_that_reboots_or_is_reset_finds_its_machine_again() {
    let level1 = Level1::restore();
    level1.sh("truncate -s 16M /root/disk");
    for irqchip in ["kernel", "split"] {
        let mut guest = level1
            .boot(&[
                "--irqchip",
                irqchip,
                "--cpus",
                "2",
                "--disk",
                "/root/disk,id=root",
                "--rng",
                "--on-reboot",
                "reset",
                "--qmp",
                &format!("unix={SOCKET}"),
            ])
            .login();
        let pipe = std::fs::read(env!("CARGO_BIN_EXE_unix-pipe"));
        let pipe = pipe.unwrap_or_else(|error| panic!("unix-pipe: {error}"));
        let mut qmp = Qmp::connect(&level1, SOCKET, &pipe);
        let first = regions(&mut qmp);
        // Where Linux has left it: above 4 GiB, decoded.
        assert!(first[0]["address"].as_u64() >= Some(1 << 32), "{first}");
        guest.ask("dd if=/dev/urandom of=/dev/vda bs=64k count=32 conv=fsync 2>/dev/null");
        let sum = guest.ask("md5sum < /dev/vda");
        guest.type_line("reboot -f");
        assert_eq!(
            qmp.wait_for("RESET"),
            json!({ "guest": true, "reason": "guest-reset" })
        );
        let mut guest = guest.login();
        assert_eq!(guest.ask("md5sum < /dev/vda"), sum);
        assert_eq!(guest.ask("nproc"), "2");
        assert_eq!(regions(&mut qmp), first);
        // In the middle of its work.
        guest.type_line(
            "while :; do dd if=/dev/vda of=/dev/null bs=4k iflag=direct 2>/dev/null; done",
        );
        std::thread::sleep(std::time::Duration::from_secs(1));
        qmp.run("system_reset", json!({}));
        qmp.wait_for("RESET");
        let mut guest = guest.login();
        assert_eq!(guest.ask("md5sum < /dev/vda"), sum);
        assert_eq!(guest.complaints(), "");
        guest.power_off();
    }
}
