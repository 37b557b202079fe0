//! `read`, `readv` and `aio_read`.

use std::time::Instant;

use super::arguments::{Arguments, MAX_REQUEST, Read, Refused, lengths, number, whole_sectors};
use super::buffer::{dump, verify};
use super::commands::{Shell, failed, usage};
use super::report::Request;
use crate::out;

/// What a buffer holds before it is read into.
const UNREAD: u8 = 0xab;

pub(super) fn read(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "bCl:pP:qrs:v").or_else(|_| usage("read"))?;
    let pattern = args.pattern()?;
    let (start, length) = (args.size("s")?, args.size("l")?);
    let [offset, count] = args.operands.as_slice() else {
        return usage("read");
    };
    let (offset, text) = (number(offset)?, count);
    let count = number(text)?;
    if count > MAX_REQUEST {
        out!("length cannot exceed {MAX_REQUEST}, given {text}\n");
        return Err(Refused);
    }
    if pattern.is_none() && (start.is_some() || length.is_some()) {
        return usage("read");
    }
    let start = start.unwrap_or(0);
    let length = length
        .or_else(|| count.checked_sub(start))
        .filter(|length| length.checked_add(start).is_some_and(|end| end <= count));
    let Some(length) = length else {
        out!("pattern verification range exceeds end of read data\n");
        return Err(Refused);
    };
    if args.has("b") {
        whole_sectors(offset, "offset")?;
        whole_sectors(count, "count")?;
    }
    let mut buf = vec![UNREAD; count as usize];
    let began = Instant::now();
    let disk = shell.disk()?;
    let done = match (args.has("b"), disk.image()) {
        (true, Some(image)) => image.read_vm_state(&mut buf, offset),
        (true, None) => Err(strata_qcow2::Error::Unsupported("VM state".into())),
        (false, _) => disk.read(&mut buf, offset),
    };
    let took = began.elapsed();
    done.or_else(|error| failed("read", &error))?;
    let verified = match pattern {
        Some(pattern) => {
            let range = start as usize..(start + length) as usize;
            verify(&buf[range], pattern, offset + start)
        }
        None => Ok(()),
    };
    show(&args, &buf, offset, took);
    verified
}

pub(super) fn readv(shell: &mut Shell, words: &[String]) -> Read<()> {
    vectored(shell, words, "readv", "CP:qrv")
}

/// The request is over when the command is; `aio_flush` finds nothing to wait for. As with
/// qemu-io, its failure is not the command's.
pub(super) fn aio_read(shell: &mut Shell, words: &[String]) -> Read<()> {
    let args = Arguments::parse(words, "CiP:qrv").or_else(|_| usage("aio_read"))?;
    if args.has("i") {
        out!("injecting invalid read request\n");
        return Ok(());
    }
    if args.operands.len() < 2 {
        return usage("aio_read");
    }
    args.pattern()?;
    number(&args.operands[0])?;
    lengths(&args.operands[1..])?;
    let _ = vectored(shell, words, "aio_read", "CiP:qrv");
    Ok(())
}

fn vectored(shell: &mut Shell, words: &[String], name: &str, letters: &str) -> Read<()> {
    let args = Arguments::parse(words, letters).or_else(|_| usage(name))?;
    let pattern = args.pattern()?;
    let Some((offset, counts)) = args.operands.split_first().filter(|(_, c)| !c.is_empty()) else {
        return usage(name);
    };
    let offset = number(offset)?;
    let mut buf = vec![UNREAD; lengths(counts)? as usize];
    let began = Instant::now();
    let done = shell.disk()?.read(&mut buf, offset);
    let took = began.elapsed();
    done.or_else(|error| failed("readv", &error))?;
    let verified = pattern.map_or(Ok(()), |pattern| verify(&buf, pattern, offset));
    show(&args, &buf, offset, took);
    verified
}

fn show(args: &Arguments, buf: &[u8], offset: u64, took: std::time::Duration) {
    if args.has("q") {
        return;
    }
    if args.has("v") {
        dump(buf, offset);
    }
    Request {
        verb: "read",
        offset,
        length: buf.len() as u64,
        took,
    }
    .print(args.has("C"));
}
