//! Interfaces, bridges and routes that touch nothing of the host.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;

use crate::sys;

/// A network namespace of its own, gone when dropped. Making one needs `CAP_SYS_ADMIN`.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new namespace, with its loopback interface up.
    ///
    /// # Errors
    /// What the kernel answered: `EPERM` without the capability.
    pub fn new() -> io::Result<Self> {
        let namespace = thread::scope(|scope| {
            scope
                .spawn(|| {
                    sys::enter_new_netns()?;
                    File::open("/proc/thread-self/ns/net").map(Self)
                })
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        })?;
        namespace.ip("link set lo up")?;
        // Where the host filters bridged frames, so would the new namespace.
        let _ =
            namespace.run(|| std::fs::write("/proc/sys/net/bridge/bridge-nf-call-iptables", "0"));
        Ok(namespace)
    }

    /// Runs `work` on a thread inside of the namespace.
    ///
    /// # Panics
    /// When `work` does, or the namespace can not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || match sys::enter_netns(self.0.as_fd()) {
            Ok(()) => work(),
            Err(error) => panic!("can not enter the namespace: {error}"),
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Runs iproute2's `ip` inside of the namespace and returns what it printed.
    ///
    /// # Errors
    /// When it can not be run or fails, with what it said.
    pub fn ip(&self, arguments: &str) -> io::Result<String> {
        let output = self.run(|| Command::new("ip").args(arguments.split(' ')).output())?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(io::Error::other(format!("ip {arguments}: {said}")));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A path by which other programs can name the namespace while it lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }
}
