//! `strata-io`: runs commands on one open disk.

mod arguments;
mod buffer;
mod commands;
mod file;
mod inspect;
mod read;
mod report;
mod state;
mod write;

use std::io::{BufRead, IsTerminal};

use crate::disk::{Cache, Flags, Options, secret};
use crate::getopt::{self, Order, Spec};
use crate::report::{Failure, Outcome, flush, program};
use crate::{fail, out};
use commands::Shell;

const SPECS: &[Spec] = &[
    (Some('h'), "help", false),
    (Some('V'), "version", false),
    (Some('c'), "cmd", true),
    (Some('f'), "format", true),
    (Some('r'), "read-only", false),
    (Some('s'), "snapshot", false),
    (Some('n'), "nocache", false),
    (Some('C'), "copy-on-read", false),
    (Some('m'), "misalign", false),
    (Some('k'), "native-aio", false),
    (Some('i'), "aio", true),
    (Some('d'), "discard", true),
    (Some('t'), "cache", true),
    (Some('T'), "trace", true),
    (Some('U'), "force-share", false),
    (None, "object", true),
    (None, "image-opts", false),
];

/// Runs the commands that `args` (without the program's name) or standard input give.
///
/// # Errors
/// When the command line or the image is wrong. Failed commands end in exit code 1.
pub fn main(args: &[String]) -> Outcome<u8> {
    let line = match getopt::parse(args, SPECS, Order::Any) {
        Ok(line) if line.operands.len() <= 1 => line,
        _ => {
            usage();
            return Ok(1);
        }
    };
    let mut flags = Flags {
        write: true,
        unmap: true,
        ..Flags::default()
    };
    flags.cache = Cache::WRITETHROUGH;
    let (mut commands, mut format, mut image_opts) = (Vec::new(), None, false);
    for (name, value) in line.options {
        match name.as_str() {
            "help" => {
                usage();
                return Ok(0);
            }
            "version" => {
                out!("{} version {}\n", program(), env!("CARGO_PKG_VERSION"));
                return Ok(0);
            }
            "cmd" => commands.push(value),
            "format" => format = Some(value),
            "read-only" => flags.write = false,
            "snapshot" => flags.temporary = true,
            "copy-on-read" => fail!("copy-on-read is not supported"),
            "nocache" => flags.cache = Cache::NONE,
            "aio" => aio(&value)?,
            "discard" => flags.unmap = discard(&value)?,
            "cache" => flags.cache = Cache::parse(&value, "Invalid cache option")?,
            "force-share" => flags.force_share = true,
            "object" => secret::define(&value)?,
            "image-opts" => image_opts = true,
            // How buffers are aligned and requests submitted changes no result here.
            _ => {}
        }
    }
    if format.is_some() && image_opts {
        fail!("--image-opts and -f are mutually exclusive");
    }
    let mut shell = Shell::new(image_opts);
    if let Some(name) = line.operands.first() {
        let mut options = Options::default();
        if let Some(format) = format {
            options.set("driver", format);
        }
        let name = match image_opts {
            true => {
                options = Options::from_keyval(name);
                None
            }
            false => Some(name.as_str()),
        };
        shell.open(name, options, flags)?;
    }
    let worked = match commands.is_empty() {
        true => interactive(&mut shell),
        false => batch(&mut shell, &commands),
    };
    let closed = shell.close();
    Ok(u8::from(!(worked && closed)))
}

fn batch(shell: &mut Shell, commands: &[String]) -> bool {
    let mut worked = true;
    for command in commands {
        if shell.finished() {
            break;
        }
        worked &= shell.run(command);
    }
    worked
}

fn interactive(shell: &mut Shell) -> bool {
    let mut worked = true;
    let mut lines = std::io::stdin().lock().lines();
    while !shell.finished() {
        out!("{}> ", program());
        flush();
        let Some(Ok(line)) = lines.next() else {
            if std::io::stdin().is_terminal() {
                out!("\n");
            }
            break;
        };
        worked &= shell.run(&line);
    }
    worked
}

/// Checks the name of an I/O engine; there is one here.
pub(crate) fn aio(name: &str) -> Outcome<()> {
    match name {
        "threads" | "native" | "io_uring" => Ok(()),
        _ => fail!("Invalid aio option: {name}"),
    }
}

/// Reads a discard mode.
fn discard(name: &str) -> Outcome<bool> {
    match name {
        "off" | "ignore" => Ok(false),
        "on" | "unmap" => Ok(true),
        _ => Err(Failure::new(format!("Invalid discard option: {name}"))),
    }
}

const USAGE: &str = "\
  --object OBJECTDEF   define a secret for passwords and keys
  --image-opts         treat file as option string
  -c, --cmd STRING     run this command; may be given more than once
  -f, --format FMT     the image's format
  -r, --read-only      open read-only
  -n, --nocache        pass by the page cache, as -t none
  -m, --misalign       accepted for compatibility
  -k, --native-aio     accepted for compatibility
  -i, --aio=MODE       accepted for compatibility (threads, native or io_uring)
  -t, --cache=MODE     cache mode (default writethrough)
  -d, --discard=MODE   whether discards reach the host (default unmap)
  -U, --force-share    open although another process writes
  -h, --help           print this and exit
  -V, --version        print the version and exit
";

fn usage() {
    let name = program();
    out!("Usage: {name} [OPTIONS]... [-c STRING]... [file]\n{USAGE}\n");
    out!("See '{name} -c help' for the commands.\n");
}
