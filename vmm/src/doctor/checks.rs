//! What the host offers beside KVM.

use std::fs::{self, File};
use std::path::Path;

use super::{Finding, Verdict};
use crate::sys;

/// Looks at everything but KVM.
pub(super) fn examine() -> Vec<Finding> {
    vec![
        memory(),
        huge_pages(),
        transparent_huge_pages(),
        ksm(),
        userfaultfd(),
        io_uring(),
        tun(),
        locked_memory(),
        open_files(),
    ]
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

/// The value of `key` in /proc/meminfo, in KiB or, for counts, in pages.
fn meminfo(key: &str) -> Option<u64> {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?, key)
}

fn parse_meminfo(text: &str, key: &str) -> Option<u64> {
    let rest = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    rest.split_whitespace().next()?.parse().ok()
}

fn memory() -> Finding {
    let (Some(total), Some(available)) = (meminfo("MemTotal"), meminfo("MemAvailable")) else {
        return Finding::new(
            "memory",
            Verdict::Limited,
            "/proc/meminfo can not be read",
            "sizes of guests are not checked against the host's memory",
        );
    };
    let found = format!("{} MiB of {} MiB available", available / 1024, total / 1024);
    Finding::new("memory", Verdict::Ok, found, "")
}

fn huge_pages() -> Finding {
    let name = "huge pages";
    match (meminfo("HugePages_Free"), meminfo("Hugepagesize")) {
        (Some(0) | None, _) | (_, None) => Finding::new(
            name,
            Verdict::Limited,
            "none reserved",
            "--memory SIZE,hugepages=2M is refused; reserve some: sysctl vm.nr_hugepages=N",
        ),
        (Some(free), Some(size)) => Finding::new(
            name,
            Verdict::Ok,
            format!("{free} free of {} MiB", size / 1024),
            "",
        ),
    }
}

fn transparent_huge_pages() -> Finding {
    let name = "transparent huge pages";
    let setting = read("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
    if setting.contains("[always]") || setting.contains("[madvise]") {
        return Finding::new(name, Verdict::Ok, setting, "");
    }
    let found = if setting.is_empty() {
        "not in this kernel".to_owned()
    } else {
        setting
    };
    Finding::new(
        name,
        Verdict::Limited,
        found,
        "guests start slower and use more of the TLB; \
         echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
    )
}

fn ksm() -> Finding {
    let name = "KSM";
    match read("/sys/kernel/mm/ksm/run").as_deref() {
        Some("1") => Finding::new(name, Verdict::Ok, "running", ""),
        Some(_) => Finding::new(
            name,
            Verdict::Ok,
            "there, not running",
            "equal pages of guests are not merged; echo 1 > /sys/kernel/mm/ksm/run",
        ),
        None => Finding::new(
            name,
            Verdict::Limited,
            "not in this kernel",
            "the kernel can not merge equal pages of guests",
        ),
    }
}

fn userfaultfd() -> Finding {
    let name = "userfaultfd";
    match sys::userfaultfd_probe() {
        Ok(()) => Finding::new(name, Verdict::Ok, "usable", ""),
        Err(error) => Finding::new(
            name,
            Verdict::Limited,
            error.to_string(),
            "a saved machine's memory can not be loaded lazily; run as root, or \
             sysctl vm.unprivileged_userfaultfd=1",
        ),
    }
}

fn io_uring() -> Finding {
    let name = "io_uring";
    match sys::io_uring_probe() {
        Ok(()) => Finding::new(name, Verdict::Ok, "usable", ""),
        Err(error) => Finding::new(
            name,
            Verdict::Limited,
            error.to_string(),
            "disks will be slower; sysctl kernel.io_uring_disabled=0 where it is forbidden",
        ),
    }
}

fn tun() -> Finding {
    let name = "tun/tap";
    match File::options()
        .read(true)
        .write(true)
        .open(Path::new("/dev/net/tun"))
    {
        Ok(_) => Finding::new(name, Verdict::Ok, "/dev/net/tun opens", ""),
        Err(error) => Finding::new(
            name,
            Verdict::Limited,
            format!("/dev/net/tun: {error}"),
            "guests can have no tap interface; modprobe tun, or mind the rights of /dev/net/tun",
        ),
    }
}

fn locked_memory() -> Finding {
    let name = "locked memory limit";
    match sys::soft_limit(libc::RLIMIT_MEMLOCK) {
        None => Finding::new(name, Verdict::Ok, "unlimited", ""),
        Some(limit) => Finding::new(
            name,
            Verdict::Ok,
            format!("{} KiB", limit / 1024),
            "bounds what can be registered with io_uring without CAP_IPC_LOCK; ulimit -l",
        ),
    }
}

fn open_files() -> Finding {
    /// A machine with the most vCPUs and a few dozen queues.
    const ENOUGH: u64 = 1024;
    let name = "open files limit";
    match sys::soft_limit(libc::RLIMIT_NOFILE) {
        Some(limit) if limit < ENOUGH => Finding::new(
            name,
            Verdict::Limited,
            limit.to_string(),
            "machines with many CPUs and devices need more; ulimit -n 4096",
        ),
        Some(limit) => Finding::new(name, Verdict::Ok, limit.to_string(), ""),
        None => Finding::new(name, Verdict::Ok, "unlimited", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_lines_are_found_by_their_whole_name() {
        let text = "MemTotal:  100 kB\nMemTotalX: 5 kB\nHugePages_Free:    7\n";
        assert_eq!(parse_meminfo(text, "MemTotal"), Some(100));
        assert_eq!(parse_meminfo(text, "HugePages_Free"), Some(7));
        assert_eq!(parse_meminfo(text, "Mem"), None);
        assert_eq!(parse_meminfo("MemTotal:\n", "MemTotal"), None);
    }
}
