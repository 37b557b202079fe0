//! `write`, `writev`, `aio_write` and `discard`.

use std::time::Instant;

use super::arguments::{Arguments, MAX_REQUEST, Read, Refused, lengths, number, whole_sectors};
use super::buffer::from_file;
use super::commands::{Shell, failed, usage};
use super::report::Request;
use crate::disk::Disk;
use crate::out;

/// What is written unless the command says otherwise.
const PATTERN: u8 = 0xcd;

fn refuse<T>(text: &str) -> Read<T> {
    out!("{text}\n");
    Err(Refused)
}

pub(super) fn write(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "bcCfnpP:qrs:uz").or_else(|_| usage("write"))?;
    let pattern = args.pattern()?;
    let [offset, count] = args.operands.as_slice() else {
        return usage("write");
    };
    check_combination(&args)?;
    let (offset, text) = (number(offset)?, count);
    let count = number(text)?;
    if count > MAX_REQUEST && !args.has("n") {
        out!("length cannot exceed {MAX_REQUEST} without -n, given {text}\n");
        return Err(Refused);
    }
    if args.has("b") || args.has("c") {
        whole_sectors(offset, "offset")?;
        whole_sectors(count, "count")?;
    }
    let buf = match (args.has("z"), args.value("s")) {
        (true, _) => Vec::new(),
        (false, Some(path)) => from_file(path, count)?,
        (false, None) => vec![pattern.unwrap_or(PATTERN); count as usize],
    };
    let began = Instant::now();
    let done = perform(shell.disk()?, &args, &buf, offset, count);
    let took = began.elapsed();
    done.or_else(|error| failed("write", &error))?;
    report(&args, "wrote", offset, count, took);
    Ok(())
}

fn check_combination(args: &Arguments) -> Read<()> {
    let zero = args.has("z");
    if args.has("b") && zero {
        return refuse("-b and -z cannot be specified at the same time");
    }
    if args.has("f") && (args.has("b") || args.has("c")) {
        return refuse("-f and -b or -c cannot be specified at the same time");
    }
    if args.has("n") && !zero {
        return refuse("-n requires -z to be specified");
    }
    if args.has("u") && !zero {
        return refuse("-u requires -z to be specified");
    }
    if [zero, args.has("P"), args.has("s")]
        .iter()
        .filter(|given| **given)
        .count()
        > 1
    {
        return refuse("Only one of -z, -P, and -s can be specified at the same time");
    }
    if zero && args.has("r") {
        return refuse("cannot combine zero write with registered I/O buffer");
    }
    Ok(())
}

fn perform(
    disk: &Disk,
    args: &Arguments,
    buf: &[u8],
    offset: u64,
    count: u64,
) -> strata_qcow2::Result<()> {
    if args.has("b") {
        return match disk.image() {
            Some(image) => image.write_vm_state(buf, offset),
            None => Err(strata_qcow2::Error::Unsupported("VM state".into())),
        };
    }
    if args.has("z") {
        disk.write_zeroes(offset, count, args.has("u"))?;
    } else if args.has("c") {
        return compressed(disk, buf, offset);
    } else {
        disk.write(buf, offset)?;
    }
    if args.has("f") { disk.flush() } else { Ok(()) }
}

/// Compressed data goes in whole clusters.
fn compressed(disk: &Disk, buf: &[u8], offset: u64) -> strata_qcow2::Result<()> {
    let step = disk.cluster_size().unwrap_or(65536) as usize;
    if buf.is_empty() {
        // Still asks whether it could be.
        return disk.write_compressed(buf, offset);
    }
    disk.check_write(offset, buf.len() as u64)?;
    let mut at = offset;
    for cluster in buf.chunks(step) {
        disk.write_compressed(cluster, at)?;
        at += cluster.len() as u64;
    }
    Ok(())
}

pub(super) fn writev(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "CfP:qr").or_else(|_| usage("writev"))?;
    vectored(shell, &args, "writev", "writev")
}

/// As `aio_read`: done at once, and its failure is not the command's.
pub(super) fn aio_write(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "CfiP:qruz").or_else(|_| usage("aio_write"))?;
    args.pattern()?;
    if args.has("i") {
        out!("injecting invalid write request\n");
        return Ok(());
    }
    if args.operands.len() < 2 {
        return usage("aio_write");
    }
    if args.has("z") && args.operands.len() != 2 {
        return refuse("-z supports only a single length parameter");
    }
    if args.has("u") && !args.has("z") {
        return refuse("-u requires -z to be specified");
    }
    if args.has("z") && args.has("P") {
        return refuse("-z and -P cannot be specified at the same time");
    }
    if args.has("z") && args.has("r") {
        return refuse("cannot combine zero write with registered I/O buffer");
    }
    let offset = number(&args.operands[0])?;
    if args.has("z") {
        let count = number(&args.operands[1])?;
        let began = Instant::now();
        let done = perform(shell.disk()?, &args, &[], offset, count);
        match done {
            Ok(()) => report(&args, "wrote", offset, count, began.elapsed()),
            Err(error) => drop(failed::<()>("aio_write", &error)),
        }
        return Ok(());
    }
    lengths(&args.operands[1..])?;
    let _ = vectored(shell, &args, "aio_write", "aio_write");
    Ok(())
}

fn vectored(shell: &mut Shell, args: &Arguments, name: &str, verb: &str) -> Read<()> {
    let pattern = args.pattern()?.unwrap_or(PATTERN);
    let Some((offset, counts)) = args.operands.split_first().filter(|(_, c)| !c.is_empty()) else {
        return usage(name);
    };
    let offset = number(offset)?;
    let count = lengths(counts)?;
    let buf = vec![pattern; count as usize];
    let began = Instant::now();
    let disk = shell.disk()?;
    let done = disk.write(&buf, offset).and_then(|()| match args.has("f") {
        true => disk.flush(),
        false => Ok(()),
    });
    done.or_else(|error| failed(verb, &error))?;
    report(args, "wrote", offset, count, began.elapsed());
    Ok(())
}

pub(super) fn discard(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "Cq").or_else(|_| usage("discard"))?;
    let [offset, text] = args.operands.as_slice() else {
        return usage("discard");
    };
    let (offset, count) = (number(offset)?, number(text)?);
    if count > MAX_REQUEST {
        out!("length cannot exceed {MAX_REQUEST}, given {text}\n");
        return Err(Refused);
    }
    let began = Instant::now();
    shell
        .disk()?
        .discard(offset, count)
        .or_else(|error| failed("discard", &error))?;
    report(&args, "discard", offset, count, began.elapsed());
    Ok(())
}

fn report(
    args: &Arguments,
    verb: &'static str,
    offset: u64,
    length: u64,
    took: std::time::Duration,
) {
    if !args.has("q") {
        Request {
            verb,
            offset,
            length,
            took,
        }
        .print(args.has("C"));
    }
}
