//! A `strata` that runs while a test talks to it.

use std::io::Read;
use std::process::{Child, Command, Stdio};

use super::{Guest, Qmp, wait};

/// Starts a guest with a control socket, and more arguments, and connects to it.
pub fn start(guest: &Guest, args: &[&str]) -> (Machine, Qmp) {
    let path = guest.path("qmp");
    let mut command = guest.run(args);
    command.arg("--qmp").arg(format!("unix={}", path.display()));
    let child = piped(command);
    let client = Qmp::connect(&path);
    (child, client)
}

/// Starts a `strata` whose console and messages are read.
pub fn piped(mut command: Command) -> Machine {
    let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Machine(Some(command.spawn().unwrap()))
}

/// A `strata` that does not outlive a test that fails.
pub struct Machine(Option<Child>);

impl Machine {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// Reads the console until `text` has come.
    pub fn wait_for(&mut self, text: &str) {
        let console = self.0.as_mut().unwrap().stdout.as_mut().unwrap();
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains(text) {
            assert_eq!(console.read(&mut byte).unwrap(), 1, "only {seen:?}");
            seen.push(byte[0].into());
        }
    }

    /// Waits for its end, and gives its exit code.
    pub fn code(mut self) -> Option<i32> {
        wait(self.0.take().unwrap()).status.code()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
