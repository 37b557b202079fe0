//! How much memory the guest has for itself.

use serde::Deserialize;
use serde_json::{Value, json};
use strata_balloon::BalloonHandle;
use strata_qmp::{Class, Commands, Error, NoArguments};

use super::Control;

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands
        .with("balloon", Control::set_balloon)
        .with("query-balloon", Control::query_balloon)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    /// What the guest is to keep, in bytes: not what it gives.
    value: u64,
}

impl Control {
    /// Asks the guest to keep so much; it answers in its own time.
    fn set_balloon(&mut self, target: Target) -> Result<(), Error> {
        let memory = self.parts.memory.bytes();
        let balloon = self.balloon()?;
        if target.value == 0 || target.value > memory {
            return Err(Error::generic(format_args!(
                "'value' is what the guest keeps: 1 to {memory} bytes"
            )));
        }
        balloon.set_target(memory - target.value);
        Ok(())
    }

    /// What the guest has kept.
    fn query_balloon(&mut self, _: NoArguments) -> Result<Value, Error> {
        let given = self.balloon()?.actual();
        Ok(json!({ "actual": self.parts.memory.bytes().saturating_sub(given) }))
    }

    fn balloon(&self) -> Result<&BalloonHandle, Error> {
        self.parts.balloon.as_ref().ok_or_else(|| {
            Error::new(
                Class::DeviceNotActive,
                "this machine has no balloon: start it with --balloon 0",
            )
        })
    }
}
