//! Takes the kernel out of a bzImage (Linux, Documentation/arch/x86/boot.rst).

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};

/// The magic of a payload, and the program that unpacks it.
const PACKERS: [(&[u8], &str); 4] = [
    (b"\x02\x21\x4c\x18", "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x1f\x8b", "gzip"),
];

/// Unpacks the ELF kernel of the bzImage `from` to the file `to`.
pub fn unpack(from: &Path, to: &Path) -> Result<()> {
    let image = fs::read(from).map_err(Error::file("read", from))?;
    let wrong = |reason| Error::Kernel {
        path: from.to_path_buf(),
        reason,
    };
    let payload = payload(&image).map_err(wrong)?;
    let packer = PACKERS.iter().find(|(magic, _)| payload.starts_with(magic));
    let (_, program) = packer.ok_or(wrong("it is packed in an unknown way"))?;
    let out = fs::File::create(to).map_err(Error::file("create", to))?;
    let mut child = Command::new(program)
        .args(["-d", "-c"])
        .stdin(Stdio::piped())
        .stdout(out)
        .stderr(Stdio::null())
        .spawn()
        .map_err(Error::file("start", program))?;
    if let Some(mut input) = child.stdin.take() {
        input
            .write_all(payload)
            .map_err(Error::file("feed", program))?;
    }
    child.wait().map_err(Error::file("wait for", program))?;
    // The program's own verdict says little: the payload may end with bytes that are not its own.
    let kernel = fs::read(to).map_err(Error::file("read", to))?;
    if kernel.starts_with(b"\x7fELF") {
        Ok(())
    } else {
        Err(wrong("no ELF file came out"))
    }
}

/// The packed kernel within the image, without the length that the build appends to it.
fn payload(image: &[u8]) -> std::result::Result<&[u8], &'static str> {
    let number = |at: usize| {
        let bytes = image.get(at..)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    if image.get(0x202..0x206) != Some(b"HdrS") {
        return Err("it has no boot header");
    }
    let sectors = match image[0x1f1] {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let setup = (sectors + 1) * 512;
    let (offset, length) = number(0x248)
        .zip(number(0x24c))
        .ok_or("its header is cut off")?;
    let start = setup
        .checked_add(offset)
        .ok_or("its payload lies nowhere")?;
    let end = start
        .checked_add(length)
        .ok_or("its payload lies nowhere")?;
    let payload = image.get(start..end).ok_or("its payload is cut off")?;
    let packed = payload.split_last_chunk::<4>().map(|(packed, _)| packed);
    packed.ok_or("its payload is empty")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 0x300];
        image[0x1f1] = 1;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248] = 16;
        image[0x24c] = 9;
        image.resize(1024 + 16, 0);
        image.extend(b"hello\x05\0\0\0");
        image
    }

    #[test]
    fn payload_lies_where_the_header_says() {
        assert_eq!(payload(&image()), Ok(&b"hello"[..]));
    }

    #[test]
    fn a_header_that_lies_is_refused() {
        let good = image();
        assert!(payload(&good[..0x220]).is_err());
        assert!(payload(&good[..good.len() - 1]).is_err());
        let mut far = good.clone();
        far[0x248..0x24c].fill(0xff);
        assert!(payload(&far).is_err());
        assert!(payload(b"not a kernel").is_err());
    }
}
