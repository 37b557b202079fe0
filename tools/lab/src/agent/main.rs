//! The program that runs as level 1's only service: `lab-agent serve` answers the host's frames,
//! `lab-agent probe` starts a virtual machine monitor and reports what the measured boot cost.

#[allow(dead_code, reason = "the host uses the other half")]
#[path = "../protocol.rs"]
mod protocol;

mod probe;
mod serve;
mod sys;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match args.as_slice() {
        [_, "serve"] => serve::serve(),
        [
            _,
            what @ ("probe" | "exits"),
            marker,
            seconds,
            phase,
            argv @ ..,
        ] => probe::probe(*what == "exits", marker, seconds, phase, argv),
        _ => Err(std::io::Error::other(
            "usage: lab-agent serve | (probe | exits) MARKER SECONDS PHASE PROGRAM..",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("lab-agent: {error}");
            ExitCode::FAILURE
        }
    }
}
