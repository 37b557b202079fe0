//! Initramfs images that differ from the test image's own in what they cost to boot.

/// What the kernel's build puts behind a signed module (kernel, Documentation/admin-guide/
/// module-signing.rst; `struct module_signature` before it, whose last field is the signature's
/// size, big-endian).
const MAGIC: &[u8] = b"~Module signature appended~\n";
const STRUCT: usize = 12;

/// A newc header and the places in it of the file's size and of the name's.
const HEADER: usize = 110;
const FILE_SIZE: usize = 54;
const NAME_SIZE: usize = 94;

/// A plain cpio archive with the same files, but kernel modules without their signatures. A kernel
/// that does not insist on them loads these too, and does not compute.
///
/// # Panics
/// When it is not one.
#[track_caller]
pub fn without_signatures(archive: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(archive.len());
    let mut at = 0;
    loop {
        let header = &archive[at..at + HEADER];
        assert!(header.starts_with(b"070701"), "no header at {at}");
        let data_at = (at + HEADER + number(header, NAME_SIZE)).next_multiple_of(4);
        let data = &archive[data_at..data_at + number(header, FILE_SIZE)];
        let start = out.len();
        out.extend_from_slice(&archive[at..data_at]);
        let kept = unsigned(data);
        out[start + FILE_SIZE..][..8].copy_from_slice(format!("{:08x}", kept.len()).as_bytes());
        out.extend_from_slice(kept);
        out.resize(out.len().next_multiple_of(4), 0);
        if archive[at + HEADER..].starts_with(b"TRAILER!!!\0") {
            return out;
        }
        at = (data_at + data.len()).next_multiple_of(4);
    }
}

fn number(header: &[u8], at: usize) -> usize {
    let digits = std::str::from_utf8(&header[at..at + 8]).unwrap_or_default();
    usize::from_str_radix(digits, 16).unwrap_or_else(|error| panic!("{digits}: {error}"))
}

fn unsigned(module: &[u8]) -> &[u8] {
    let Some(signed) = module.strip_suffix(MAGIC) else {
        return module;
    };
    let size = signed
        .last_chunk()
        .map_or(0, |size| u32::from_be_bytes(*size)) as usize;
    let kept = signed.len().checked_sub(STRUCT + size);
    kept.map_or(module, |kept| &module[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_signature_goes() {
        let module = b"\x7fELF and so on";
        let signed = [
            &module[..],
            b"signature",
            &[0; 8],
            &9_u32.to_be_bytes(),
            MAGIC,
        ]
        .concat();
        assert_eq!(unsigned(&signed), module);
        assert_eq!(unsigned(module), module);
        let lying = [&module[..], &[0xff; STRUCT], MAGIC].concat();
        assert_eq!(unsigned(&lying), lying);
    }
}
