//! Running the host's programs.

use std::process::{Command, Stdio};

use crate::error::{Error, Result, tail};

/// How much of a failed program's messages an error quotes, in bytes.
const QUOTED: usize = 1000;

/// Runs a program and gives its standard output. One that fails is an [`Error::Command`].
pub(crate) fn checked(command: &mut Command) -> Result<String> {
    let text = format!("{command:?}").replace('"', "");
    let failed = |output| Error::Command {
        command: text.clone(),
        output,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(tail(&output.stderr, QUOTED)))
    }
}

/// Whether a program is on the path.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // Superusers' programs serve others too.
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}
