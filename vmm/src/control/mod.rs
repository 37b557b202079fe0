//! The commands of the control socket, as QMP has them.

mod balloon;
mod block;
mod block_query;
mod device;
mod net;
mod pci;
mod server;

use std::collections::BTreeMap;
use std::fs;

use serde_json::{Value, json};
use strata_qmp::{Commands, Error, NoArguments, Version};

pub(crate) use self::server::Server;
use crate::announce::{Announcer, qom_path};
use crate::config::{self, NetConfig};
use crate::error::Chain;
use crate::exit::Outcome;
use crate::machine::{End, Finish, Pace, Parts, Status};

/// What commands work on.
pub(crate) struct Control {
    parts: Parts,
    pace: Pace,
    end: End,
    /// Host ends of network cards, by name, for cards to come.
    netdevs: BTreeMap<String, NetConfig>,
}

/// The table of commands.
fn commands() -> Commands<Control> {
    let version = env!("CARGO_PKG_VERSION");
    let mut number = version.split('.').map(|part| part.parse().unwrap_or(0));
    let version = Version {
        number: [(); 3].map(|()| number.next().unwrap_or(0)),
        package: format!("strata {version}"),
    };
    let commands = Commands::new(version)
        .with("query-status", Control::query_status)
        .with("query-name", |_, _: NoArguments| Ok(json!({})))
        .with("query-uuid", |_, _: NoArguments| {
            Ok(json!({ "UUID": NO_UUID }))
        })
        .with("query-kvm", |_, _: NoArguments| {
            Ok(json!({ "enabled": true, "present": true }))
        })
        .with("query-target", |_, _: NoArguments| {
            Ok(json!({ "arch": std::env::consts::ARCH }))
        })
        .with("query-cpus-fast", Control::query_cpus)
        .with("stop", Control::stop)
        .with("cont", Control::cont)
        .with("system_powerdown", Control::power_down)
        .with("system_reset", Control::reset)
        .with("quit", Control::quit);
    let commands = balloon::add(block::add(block_query::add(commands)));
    pci::add(net::add(device::add(commands)))
}

/// The identifier of a machine that has none.
const NO_UUID: &str = "00000000-0000-0000-0000-000000000000";

impl Control {
    /// Commands for the machine of these parts.
    pub(crate) fn new(parts: &Parts, pace: Pace, end: End) -> Self {
        Self {
            parts: parts.clone(),
            pace,
            end,
            netdevs: BTreeMap::new(),
        }
    }

    pub(crate) fn announcer(&self) -> &Announcer {
        &self.parts.announcer
    }

    fn query_status(&mut self, _: NoArguments) -> Result<Value, Error> {
        let status = self.pace.status();
        Ok(json!({ "running": status == Status::Running, "status": status.name() }))
    }

    fn query_cpus(&mut self, _: NoArguments) -> Result<Value, Error> {
        let threads = vcpu_threads();
        let cpus = (0..self.pace.vcpus()).map(|index| {
            json!({
                "cpu-index": index,
                "qom-path": format!("/machine/cpu[{index}]"),
                "thread-id": threads.get(&format!("vcpu{index}")),
                "target": std::env::consts::ARCH,
            })
        });
        Ok(cpus.collect())
    }

    fn stop(&mut self, _: NoArguments) -> Result<(), Error> {
        self.pace.pause(Status::Paused).map_err(refused)
    }

    fn cont(&mut self, _: NoArguments) -> Result<(), Error> {
        self.pace.resume().map_err(refused)
    }

    fn power_down(&mut self, _: NoArguments) -> Result<(), Error> {
        self.parts.power_button.press();
        self.announcer().announce("POWERDOWN", || Value::Null);
        Ok(())
    }

    fn reset(&mut self, _: NoArguments) -> Result<(), Error> {
        self.end.set(Finish::Reset);
        Ok(())
    }

    fn quit(&mut self, _: NoArguments) -> Result<(), Error> {
        self.end.set(Finish::Outside(Outcome::Quit));
        Ok(())
    }
}

/// The ids of this process's threads, by name (proc(5), /proc/pid/task).
fn vcpu_threads() -> BTreeMap<String, u32> {
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let threads = tasks.flatten().filter_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let id = task.file_name().to_str()?.parse().ok()?;
        Some((name.trim_end().to_owned(), id))
    });
    threads
        .filter(|(name, _)| name.starts_with("vcpu"))
        .collect()
}

/// A failure of ours as an answer.
fn refused(error: crate::error::Error) -> Error {
    match &error {
        crate::error::Error::NoDevice(id) => Error::device_not_found(id),
        error => Error::generic(Chain(error)),
    }
}

/// Whether a name may be one of a device, node or host end.
fn check_id(id: &str) -> Result<(), Error> {
    config::check_id(id).map_err(Error::generic)
}
