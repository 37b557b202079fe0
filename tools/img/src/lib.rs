#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

pub mod disk;
pub mod getopt;
pub mod img;
pub mod io;
pub mod options;
mod page;
pub mod progress;
pub mod report;
mod sys;
pub mod text;

use std::process::ExitCode;

/// Runs one of the programs on the process's arguments.
pub fn run(main: fn(&[String]) -> report::Outcome<u8>) -> ExitCode {
    let args: Result<Vec<_>, _> = std::env::args_os()
        .skip(1)
        .map(|a| a.into_string())
        .collect();
    let code = match args {
        Ok(args) => main(&args).unwrap_or_else(|failure| failure.report()),
        Err(arg) => report::Failure::new(format!("argument is not UTF-8: {arg:?}")).report(),
    };
    report::flush();
    ExitCode::from(code)
}
