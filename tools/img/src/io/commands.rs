//! The table of commands and the shell that runs them.

use super::arguments::{Read, Refused};
use super::{file, inspect, read, state, write};
use crate::disk::{self, Disk, Flags, Options};
use crate::out;
use crate::report::{Failure, Outcome, errno_text, error, note};

/// What disk a command needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    Open,
    Writable,
}

/// A command: its names, how many words it takes, what it is called with and does.
struct Command {
    name: &'static str,
    short: &'static str,
    least: usize,
    most: Option<usize>,
    needs: Needs,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&mut Shell, &[String]) -> Read<()>,
}

macro_rules! commands {
    ($($name:literal $short:literal $least:literal..$most:expr, $needs:ident, $run:expr,
       $arguments:literal, $summary:literal;)*) => {
        &[$(Command {
            name: $name, short: $short, least: $least, most: $most, needs: Needs::$needs,
            arguments: $arguments, summary: $summary, run: $run,
        }),*]
    };
}

const COMMANDS: &[Command] = commands! {
    "abort" "" 0..Some(0), Nothing, state::abort, "",
        "simulate a program crash using abort(3)";
    "aio_flush" "" 0..Some(0), Open, state::aio_flush, "",
        "completes all outstanding aio requests";
    "aio_read" "" 2..None, Open, read::aio_read, "[-Ciqrv] [-P pattern] off len [len..]",
        "asynchronously reads a number of bytes";
    "aio_write" "" 2..None, Writable, write::aio_write, "[-Cfiqruz] [-P pattern] off len [len..]",
        "asynchronously writes a number of bytes";
    "alloc" "a" 1..Some(2), Open, inspect::alloc, "offset [count]",
        "checks if offset is allocated in the file";
    "close" "c" 0..Some(0), Open, file::close, "",
        "close the current open file";
    "discard" "d" 2..None, Writable, write::discard, "[-Cq] off len",
        "discards a number of bytes at a specified offset";
    "flush" "f" 0..Some(0), Open, state::flush, "",
        "flush all in-core file state to disk";
    "help" "?" 0..Some(1), Nothing, help, "[command]",
        "help for one or all commands";
    "info" "i" 0..Some(0), Open, inspect::info, "",
        "prints information about the current file";
    "length" "l" 0..Some(0), Open, inspect::length, "",
        "gets the length of the current file";
    "map" "" 0..Some(0), Open, inspect::map, "",
        "prints the allocated areas of a file";
    "open" "o" 1..None, Nothing, file::open, "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
        "open the file specified by path";
    "quit" "q" 0..None, Nothing, state::quit, "",
        "exit the program";
    "read" "r" 2..None, Open, read::read, "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
        "reads a number of bytes at a specified offset";
    "readv" "" 2..None, Open, read::readv, "[-Cqrv] [-P pattern] off len [len..]",
        "reads a number of bytes at a specified offset";
    "reopen" "" 0..None, Open, file::reopen, "[(-r|-w)] [-c cache] [-o options]",
        "reopens an image with new options";
    "sigraise" "" 1..Some(1), Nothing, state::sigraise, "signal",
        "raises a signal";
    "sleep" "" 1..Some(1), Nothing, state::sleep, "",
        "waits for the given value in milliseconds";
    "truncate" "t" 1..Some(3), Writable, file::truncate, "[-m prealloc_mode] off",
        "truncates the current file at the given offset";
    "write" "w" 2..None, Writable, write::write, "[-bcCfnqruz] [-P pattern | -s source_file] off len",
        "writes a number of bytes at a specified offset";
    "writev" "" 2..None, Writable, write::writev, "[-Cfqr] [-P pattern] off len [len..]",
        "writes a number of bytes at a specified offset";
};

fn find(name: &str) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| command.name == name || command.short == name)
}

/// Runs commands on the open disk.
pub(super) struct Shell {
    disk: Option<Disk>,
    /// File names are option strings.
    pub(super) image_opts: bool,
    finished: bool,
}

impl Shell {
    pub(super) fn new(image_opts: bool) -> Self {
        Self {
            disk: None,
            image_opts,
            finished: false,
        }
    }

    /// Runs one line; false if its command failed.
    pub(super) fn run(&mut self, line: &str) -> bool {
        let words: Vec<String> = line
            .split(' ')
            .filter(|w| !w.is_empty())
            .map(str::to_owned)
            .collect();
        let Some((name, words)) = words.split_first() else {
            return true;
        };
        let Some(command) = find(name) else {
            note(format_args!("command \"{name}\" not found"));
            return false;
        };
        if command.needs != Needs::Nothing && self.disk.is_none() {
            note("no file open, try 'help open'");
            return false;
        }
        let count = words.len();
        if count < command.least || command.most.is_some_and(|most| count > most) {
            let expected = match command.most {
                None => format!("at least {}", command.least),
                Some(most) if most == command.least => most.to_string(),
                Some(most) => format!("between {} and {most}", command.least),
            };
            note(format_args!(
                "bad argument count {count} to {name}, expected {expected} arguments"
            ));
            return false;
        }
        if command.needs == Needs::Writable
            && self.disk.as_ref().is_some_and(|disk| !disk.flags().write)
        {
            error("Block node is read-only");
            return false;
        }
        (command.run)(self, words).is_ok()
    }

    /// Opens a disk for the commands that follow.
    pub(super) fn open(
        &mut self,
        name: Option<&str>,
        options: Options,
        flags: Flags,
    ) -> Outcome<()> {
        if self.disk.is_some() {
            return Err(Failure::new("file open already, try 'help close'"));
        }
        let which = name
            .map(|name| format!(" device {name}"))
            .unwrap_or_default();
        self.put(disk::open(name, options, flags))
            .map_err(|failure| failure.context(format_args!("can't open{which}: ")))
    }

    /// Makes a disk the one that commands work on, if it was opened.
    pub(super) fn put(&mut self, opened: Outcome<Disk>) -> Outcome<()> {
        self.disk = Some(opened?);
        Ok(())
    }

    /// Closes the disk; false if its last writes failed.
    pub(super) fn close(&mut self) -> bool {
        let Some(disk) = self.disk.take() else {
            return true;
        };
        match disk.close() {
            Ok(()) => true,
            // What broke it has been told.
            Err(strata_qcow2::Error::Broken) => false,
            Err(failure) => {
                let why = errno_text(disk::errno(&failure));
                error(format_args!(
                    "Failed to flush the refcount block cache: {why}"
                ));
                false
            }
        }
    }

    pub(super) fn disk(&self) -> Read<&Disk> {
        self.disk.as_ref().ok_or(Refused)
    }

    pub(super) fn disk_mut(&mut self) -> Read<&mut Disk> {
        self.disk.as_mut().ok_or(Refused)
    }

    pub(super) fn finish(&mut self) {
        self.finished = true;
    }

    pub(super) fn finished(&self) -> bool {
        self.finished
    }
}

/// Says that a request failed, and why.
pub(super) fn failed<T>(verb: &str, error: &strata_qcow2::Error) -> Read<T> {
    out!("{verb} failed: {}\n", errno_text(disk::errno(error)));
    Err(Refused)
}

/// Says how a command is called.
pub(super) fn usage<T>(name: &str) -> Read<T> {
    if let Some(command) = find(name) {
        out!(
            "{} {} -- {}\n",
            command.name,
            command.arguments,
            command.summary
        );
    }
    Err(Refused)
}

fn help(_: &mut Shell, words: &[String]) -> Read<()> {
    let line = |name: &str, command: &Command| match command.arguments {
        "" => out!("{name} -- {}\n", command.summary),
        arguments => out!("{name} {arguments} -- {}\n", command.summary),
    };
    match words {
        [] => {
            COMMANDS
                .iter()
                .for_each(|command| line(command.name, command));
            out!("\nUse 'help commandname' for extended help.\n");
        }
        [name, ..] => match find(name) {
            Some(command) => line(name, command),
            None => {
                out!("command {name} not found\n");
                return Err(Refused);
            }
        },
    }
    Ok(())
}
