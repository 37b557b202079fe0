//! Bridges as users know them: made around the host's own NIC, with a way back.
//!
//! [`create`] makes a bridge, makes a NIC its port and moves what the NIC was configured with to
//! the bridge. When the host's connectivity does not return in time, when a step fails, or when the
//! process dies half way, everything is put back. [`delete`] is the reverse, with the same care.
//!
//! ```no_run
//! use std::time::Duration;
//! use strata_net::bridge::{self, Change, Host};
//!
//! let change = Change {
//!     bridge: "br0".parse()?,
//!     uplink: Some("eth0".parse()?),
//!     timeout: Duration::from_secs(30),
//!     guard: None,
//! };
//! let report = bridge::create(&Host::default(), change, false)?;
//! for what in &report.moved {
//!     println!("moved {what}");
//! }
//! # Ok::<(), strata_net::Error>(())
//! ```
//!
//! # The way back
//!
//! Before the first change, a journal says what was: the netlink messages that configure the NIC as
//! it was, and the contents of files that are going to be changed. It lies in `/run/strata/net`:
//! a reboot loses it together with the state that it is about. A step back can be repeated and
//! skips what is there already, so a crash during the way back is no harm either. One lock is held
//! by whoever changes bridges or goes back.
//!
//! Three take the way back: the process itself, after a failure; its guard (see [`Change::guard`]),
//! a process that outlives it and acts when it dies, be it by Ctrl-C, a lost terminal or `kill -9`;
//! and the next [`create`] or [`delete`], for the case that both died.

mod attach;
mod create;
mod delete;
mod dns;
mod files;
pub(crate) mod ipconfig;
mod journal;
mod list;
mod persist;
mod reach;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::InterfaceName;

pub use attach::attach;
pub use create::create;
pub use delete::delete;
pub use journal::{guard, recover};
pub use list::{Bridge, Guest, Port, PortKind, list};

/// Where the host keeps its files. Interfaces are those of the calling thread's network namespace.
#[derive(Clone, Debug)]
pub struct Host {
    /// The directory that holds `etc` and `run`: `/`, or that of a test.
    pub root: PathBuf,
    /// The program that asks systemd-resolved, where it is not the one in `PATH`.
    pub resolvectl: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            root: PathBuf::from("/"),
            resolvectl: None,
        }
    }
}

impl Host {
    fn etc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("etc").join(path)
    }

    fn run_dir(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("run").join(path)
    }
}

/// A change to a bridge.
#[derive(Debug)]
pub struct Change {
    /// The bridge.
    pub bridge: InterfaceName,
    /// The NIC that connects it. `None`: [`create`] makes a bridge without one, and [`delete`]
    /// finds the only port that is no tap.
    pub uplink: Option<InterfaceName>,
    /// How long the host may be cut off.
    pub timeout: Duration,
    /// A program that calls [`guard`] with its standard input and output. It is started when the
    /// journal is written, waited for before the first change, and ended after the last.
    pub guard: Option<Command>,
}

/// What a change did.
#[derive(Debug, Default)]
pub struct Report {
    /// Addresses and routes that went to the other interface.
    pub moved: Vec<String>,
    /// Files of the distribution's network configuration that were written, changed or removed.
    pub files: Vec<PathBuf>,
    /// What the user should know.
    pub notes: Vec<String>,
}
