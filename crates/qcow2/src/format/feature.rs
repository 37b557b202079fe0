//! Feature bits and the table of their names.

use super::Geometry;
use super::bytes::get_u64;

macro_rules! bits {
    ($(#[$doc:meta])* $name:ident, $kind:expr, { $($(#[$bit_doc:meta])* $bit:ident = $shift:expr, $text:expr;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name(pub u64);

        impl $name {
            $($(#[$bit_doc])* pub const $bit: $name = $name(1 << $shift);)*
            /// Every bit that this crate knows.
            pub const KNOWN: $name = $name(0 $(| 1 << $shift)*);
            const NAMES: &'static [(u8, u8, &'static str)] = &[$(($kind, $shift, $text)),*];

            /// Whether all bits of `other` are set.
            pub fn has(self, other: Self) -> bool {
                self.0 & other.0 == other.0
            }

            /// The bits that this crate does not know.
            pub fn unknown(self) -> u64 {
                self.0 & !Self::KNOWN.0
            }

            /// These bits and those of `other`.
            #[must_use]
            pub fn with(self, other: Self) -> Self {
                Self(self.0 | other.0)
            }

            /// These bits without those of `other`.
            #[must_use]
            pub fn without(self, other: Self) -> Self {
                Self(self.0 & !other.0)
            }
        }
    };
}

bits! {
    /// Features that a program must know to open the image at all.
    Incompatible, 0, {
        /// Refcounts may be wrong and are rebuilt before the image is used.
        DIRTY = 0, "dirty bit";
        /// Some structure is broken; the image may not be written.
        CORRUPT = 1, "corrupt bit";
        /// Guest data lies in another file.
        DATA_FILE = 2, "external data file";
        /// The header names a compression type.
        COMPRESSION = 3, "compression type";
        /// L2 entries carry a subcluster bitmap.
        EXTENDED_L2 = 4, "extended L2 entries";
    }
}
bits! {
    /// Features that a program may ignore.
    Compatible, 1, {
        /// Refcount updates may be put off while the dirty bit is set.
        LAZY_REFCOUNTS = 0, "lazy refcounts";
    }
}
bits! {
    /// Features that a program which does not know them must clear before it writes.
    Autoclear, 2, {
        /// The bitmaps extension is consistent with the data.
        BITMAPS = 0, "bitmaps";
        /// The external data file reads as a raw image by itself.
        DATA_FILE_RAW = 1, "raw external data";
    }
}

/// One entry of the feature name table: a kind, a bit, and 46 bytes of name.
const ENTRY: usize = 48;

/// The feature name table as this crate writes it.
/// Whether headers of this shape get the optional table of names, or leave its room to a backing
/// file's name.
pub(crate) fn has_room_for_names(geometry: &Geometry) -> bool {
    geometry.cluster_size() >= 4096
}

pub(crate) fn name_table() -> Vec<u8> {
    let mut table = Vec::new();
    for &(kind, bit, name) in [Incompatible::NAMES, Compatible::NAMES, Autoclear::NAMES]
        .into_iter()
        .flatten()
    {
        let mut entry = [0; ENTRY];
        entry[0] = kind;
        entry[1] = bit;
        entry[2..2 + name.len()].copy_from_slice(name.as_bytes());
        table.extend_from_slice(&entry);
    }
    table
}

/// Names the unknown incompatible `bits` by an image's own table.
pub(crate) fn name_unknown(table: Option<&[u8]>, bits: u64) -> String {
    let mut left = bits;
    let mut names = Vec::new();
    // The last entry may leave out the zeroes at its end.
    for entry in table
        .unwrap_or_default()
        .chunks(ENTRY)
        .filter(|entry| entry.len() >= 2)
    {
        let bit = 1u64.checked_shl(u32::from(entry[1])).unwrap_or(0);
        if entry[0] == 0 && left & bit != 0 {
            let name = entry[2..]
                .split(|&byte| byte == 0)
                .next()
                .unwrap_or_default();
            names.push(String::from_utf8_lossy(name).into_owned());
            left &= !bit;
        }
    }
    if left != 0 {
        names.push(format!("Unknown incompatible feature: {left:x}"));
    }
    names.join(", ")
}

/// The 8 bytes at `at` as a set of bits.
pub(crate) fn bits_at(bytes: &[u8], at: usize) -> u64 {
    get_u64(bytes, at)
}
