//! What buffers hold: patterns, files, dumps.

use std::io::Read as _;

use super::arguments::{Read, Refused};
use crate::out;
use crate::report::note;

/// `length` bytes read from the file at `path`, from its start again when it ends.
pub(super) fn from_file(path: &str, length: u64) -> Read<Vec<u8>> {
    let complain = |error: std::io::Error| {
        let text = error.raw_os_error().map(crate::report::errno_text);
        note(format_args!(
            "{path}: {}",
            text.unwrap_or_else(|| error.to_string())
        ));
        Refused
    };
    let file = std::fs::File::open(path).map_err(complain)?;
    let mut buf = Vec::new();
    file.take(length).read_to_end(&mut buf).map_err(complain)?;
    if buf.is_empty() && length > 0 {
        note(format_args!("{path}: file is empty"));
        return Err(Refused);
    }
    let (once, length) = (buf.len(), length as usize);
    buf.reserve_exact(length - once);
    while buf.len() < length {
        let count = once.min(length - buf.len());
        buf.extend_from_within(..count);
    }
    Ok(buf)
}

/// Prints a buffer in hexadecimal, 16 bytes to a line.
pub(super) fn dump(buf: &[u8], offset: u64) {
    for (line, bytes) in buf.chunks(16).enumerate() {
        out!("{:08x}:  ", offset + line as u64 * 16);
        for byte in bytes {
            out!("{byte:02x} ");
        }
        out!(" ");
        for byte in bytes {
            let shown = if byte.is_ascii_alphanumeric() {
                char::from(*byte)
            } else {
                '.'
            };
            out!("{shown}");
        }
        out!("\n");
    }
}

/// Checks that a range of read data is `pattern` all over.
pub(super) fn verify(buf: &[u8], pattern: u8, offset: u64) -> Read<()> {
    if buf.iter().all(|byte| *byte == pattern) {
        return Ok(());
    }
    out!(
        "Pattern verification failed at offset {offset}, {} bytes\n",
        buf.len()
    );
    Err(Refused)
}
