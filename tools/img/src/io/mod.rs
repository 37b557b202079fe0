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
use crate::page::Page;
use crate::report::{Failure, Outcome, flush, program};
use crate::{fail, out};
use commands::Shell;

const PAGE: Page = Page {
    name: "",
    about: "Reads and writes disk images by commands",
    operands: "[FILENAME]",
    specs: &[
        Spec::flag(Some('h'), "help", "Print this help"),
        Spec::flag(Some('V'), "version", "Print the version"),
        Spec::value(
            Some('c'),
            "cmd",
            "COMMAND",
            "Run this command; may be given more than once",
        ),
        Spec::value(
            Some('f'),
            "format",
            "FORMAT",
            "Format of the image [default: what its first bytes say]",
        ),
        Spec::flag(Some('r'), "read-only", "Open the image for reading only"),
        Spec::flag(
            Some('s'),
            "snapshot",
            "Write to a temporary file that is gone at the end",
        ),
        Spec::flag(Some('n'), "nocache", "Pass by the host's cache, as -t none"),
        Spec::flag(
            Some('C'),
            "copy-on-read",
            "Refused: there is no copy-on-read",
        ),
        Spec::flag(
            Some('m'),
            "misalign",
            "As qemu-io's: accepted, without effect",
        ),
        Spec::flag(
            Some('k'),
            "native-aio",
            "As qemu-io's: accepted, without effect",
        ),
        Spec::value(
            Some('i'),
            "aio",
            "ENGINE",
            "As qemu-io's (threads, native, io_uring): accepted, without effect",
        ),
        Spec::value(
            Some('d'),
            "discard",
            "MODE",
            "Whether discards reach the host: unmap or ignore [default: unmap]",
        ),
        Spec::value(
            Some('t'),
            "cache",
            "MODE",
            "Cache mode: none, writeback, writethrough, directsync or unsafe [default: writethrough]",
        ),
        Spec::value(
            Some('T'),
            "trace",
            "OPTIONS",
            "As qemu-io's: accepted, without effect",
        ),
        Spec::flag(
            Some('U'),
            "force-share",
            "Open the image although another process writes to it",
        ),
        Spec::value(
            None,
            "object",
            "OBJECT",
            "Define a secret that options name: secret,id=ID,file=PATH",
        ),
        Spec::flag(
            None,
            "image-opts",
            "FILENAME is a list of options: driver=qcow2,file.filename=PATH,..",
        ),
    ],
    examples: &[
        (
            "-c 'write -P 0x5a 0 64k' -c 'read -v 0 512' disk.qcow2",
            "commands in a row",
        ),
        ("-c help", "what commands there are"),
    ],
};

/// Runs the commands that `args` (without the program's name) or standard input give.
///
/// # Errors
/// When the command line or the image is wrong. Failed commands end in exit code 1.
pub fn main(args: &[String]) -> Outcome<u8> {
    let line = match getopt::parse(args, PAGE.specs, Order::Any) {
        Ok(line) if line.operands.len() <= 1 => line,
        _ => {
            PAGE.print();
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
                PAGE.print();
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
