//! `mkimage`: bootable Debian disk images.

mod cli;

use std::process::ExitCode;

use strata_mkimage::Error;

/// What a shell gives a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Error::Interrupted) => {
            eprintln!("mkimage: interrupted; nothing is left behind");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            eprintln!("mkimage: {error}");
            ExitCode::from(2)
        }
    }
}
