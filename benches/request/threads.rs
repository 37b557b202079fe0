//! CPU time by thread.

use std::fs;
use std::time::Duration;

/// CPU time of this process's threads, but for those of vCPUs (proc(5), /proc/pid/task/tid/schedstat).
/// Threads that have ended are not in it.
pub(crate) fn cpu_without_vcpus() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").unwrap().flatten();
    let nanos = tasks.filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let times = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let time: u64 = times.split_whitespace().next()?.parse().ok()?;
        (!name.starts_with("vcpu")).then_some(time)
    });
    Duration::from_nanos(nanos.sum())
}
