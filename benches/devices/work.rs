//! What the guest does while it is measured, and the initramfs that does it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use strata_lab::cpio::Archive;
use strata_lab::{ASSETS, Config, Cost, Lab, MARKER, SERIES};

/// A kind of work, done any number of times.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    /// What the guest's init knows it by.
    pub(crate) key: &'static str,
    /// What one of it is, for the table.
    pub(crate) unit: &'static str,
    /// The device that it needs.
    pub(crate) needs: Needs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Disk,
    Net,
}

pub(crate) const WORKS: [Work; 4] = [
    Work {
        key: "read",
        unit: "4 KiB read, one at a time",
        needs: Needs::Disk,
    },
    Work {
        key: "write",
        unit: "4 KiB overwrite, one at a time",
        needs: Needs::Disk,
    },
    Work {
        key: "send",
        unit: "frame of 60 bytes sent, by pktgen",
        needs: Needs::Net,
    },
    Work {
        key: "ping",
        unit: "ping of the host and its answer",
        needs: Needs::Net,
    },
];

/// Before the microseconds that a work took, if the guest knows better than the clock of its boot:
/// pktgen waits 125 ms for its threads and then looks for their end every 100 ms, whatever they do
/// meanwhile.
const TOOK: &str = "took us: ";

/// How long `cost`'s guest worked, from any beginning that is the same for every count.
pub(crate) fn seconds(cost: &Cost) -> f64 {
    let took = cost.console.lines().find_map(|line| {
        let (_, number) = line.split_once(TOOK)?;
        number.trim().parse::<f64>().ok()
    });
    took.map_or(cost.marker_s, |micros| micros / 1e6)
}

/// Loads the drivers, does `work=` `count=` times, and prints the marker.
const INIT: &str = r#"#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do
    test -f $module && insmod $module
done
for word in $(cat /proc/cmdline); do
    case $word in work=* | count=*) eval "$word" ;; esac
done
done=no
case $work in
read) dd if=/dev/vda of=/dev/null bs=4k count=$count iflag=direct && done=yes ;;
write) dd if=/dev/zero of=/dev/vda bs=4k count=$count oflag=direct && done=yes ;;
send)
    ip link set eth0 up
    set_to() { echo "$2" >/proc/net/pktgen/$1; }
    set_to kpktgend_0 'add_device eth0'
    set_to eth0 "count $count"
    set_to eth0 'pkt_size 60'
    set_to eth0 'dst_mac 02:00:00:00:00:01'
    set_to pgctrl start && sed -n 's/^Result: OK: \([0-9]*\).*/@TOOK@\1/p' /proc/net/pktgen/eth0 &&
        grep -q 'Result: OK' /proc/net/pktgen/eth0 && done=yes
    ;;
ping)
    ip addr add 10.0.0.2/24 dev eth0
    ip link set eth0 up
    ping -q -A -c $count 10.0.0.1 | grep -q "^$count packets transmitted, $count " && done=yes
    ;;
esac 2>/dev/null
test $done = yes && echo @MARKER@
exec setsid cttyhack sh
"#;

/// Writes the guest's initramfs: the lab's own with another init. The kernel unpacks archives one
/// after the other, and the last file of a name wins.
pub(crate) fn write_initramfs(lab: &Lab, path: &Path) -> Result<(), String> {
    let words = |error: strata_lab::Error| error.to_string();
    let level1 = lab.restore(&Config::default()).map_err(words)?;
    let mut bytes = level1
        .get(&format!("{ASSETS}/{}/initrd", SERIES[0]))
        .map_err(words)?;
    let limit = Duration::from_secs(60);
    let found = level1
        .run(
            &["sh", "-c", "cat $(find /lab/modules -name pktgen.ko)"],
            limit,
        )
        .and_then(|output| output.checked("find pktgen.ko"))
        .map_err(words)?;
    // An archive begins at a multiple of four.
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let init = INIT.replace("@MARKER@", MARKER).replace("@TOOK@", TOOK);
    let mut archive = Archive::new();
    archive
        .file("init", 0o755, init.as_bytes())
        .file("modules/90-pktgen.ko", 0o644, &found.stdout);
    bytes.extend(archive.finish());
    fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))
}
