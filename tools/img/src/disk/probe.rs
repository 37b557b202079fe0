//! Which format the first bytes of a file belong to.

use super::Format;

/// Bytes that probing looks at.
pub(super) const PROBED: usize = 512;

/// What probing found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probed {
    /// A format that is supported.
    Known(Format),
    /// A format of this name, which is not supported.
    Foreign(&'static str),
}

const FOREIGN: [(usize, &[u8], &str); 8] = [
    (0, b"KDMV", "vmdk"),
    (0, b"COWD", "vmdk"),
    (0, b"# Disk DescriptorFile", "vmdk"),
    (0, b"QED\0", "qed"),
    (0, b"vhdxfile", "vhdx"),
    (0, b"conectix", "vpc"),
    (0, b"WithoutFreeSpace", "parallels"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "vdi"),
];

/// Looks at the first [`PROBED`] bytes of a file, zeroes past its end.
pub(super) fn probe(start: &[u8]) -> Probed {
    let at =
        |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|b| b.starts_with(magic));
    if at(0, b"QFI\xfb") {
        return match start.get(4..8) {
            Some([0, 0, 0, 1]) => Probed::Foreign("qcow"),
            _ => Probed::Known(Format::Qcow2),
        };
    }
    if at(0, b"LUKS\xba\xbe") {
        return Probed::Known(Format::Luks);
    }
    let foreign = FOREIGN.iter().find(|(offset, magic, _)| at(*offset, magic));
    foreign.map_or(Probed::Known(Format::Raw), |(_, _, name)| {
        Probed::Foreign(name)
    })
}
