//! An ISO 9660 volume with one directory (ECMA-119), with POSIX names by Rock Ridge (SUSP 1.12,
//! RRIP 1.12) for Linux, and by Joliet for systems that know no Rock Ridge.

/// Bytes of a logical sector and of a logical block.
pub(crate) const SECTOR: usize = 2048;

/// A file in the root directory.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    /// Its POSIX name.
    pub(crate) name: &'a str,
    /// Its name in d-characters with a version (ECMA-119 §7.5). Entries are sorted by this and by
    /// `name`.
    pub(crate) plain: &'a str,
    /// Its bytes: less than 4 GiB.
    pub(crate) contents: &'a [u8],
}

// Where things lie, in sectors. The first sixteen are the system area, which stays empty.
const PRIMARY: u32 = 16;
const JOLIET: u32 = 17;
const TERMINATOR: u32 = 18;
const PATHS: [u32; 2] = [19, 20]; // little-endian, big-endian
const JOLIET_PATHS: [u32; 2] = [21, 22];
const ROOT: u32 = 23;
const EXTENSION: u32 = 24;
const JOLIET_ROOT: u32 = 25;
const DATA: u32 = 26;

/// 2000-01-01 00:00:00 UTC: images depend on their contents alone (§9.1.5, §8.4.26.1).
const DATE: [u8; 7] = [100, 1, 1, 0, 0, 0, 0];
const LONG_DATE: &[u8; 17] = b"2000010100000000\0";
const NO_DATE: &[u8; 17] = b"0000000000000000\0";

/// A path table with the root alone (§9.4).
const PATH_TABLE_SIZE: u32 = 10;

const DIRECTORY: u8 = 2;

/// The names in use: those of ECMA-119, with Rock Ridge, or those of Joliet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    Primary,
    Joliet,
}

/// Builds the volume. The directory must fit into one sector: three entries do, by far.
pub(crate) fn build(label: &str, entries: &[Entry<'_>]) -> Vec<u8> {
    let sectors = |entry: &Entry<'_>| entry.contents.len().div_ceil(SECTOR) as u32;
    let total = DATA + entries.iter().map(sectors).sum::<u32>();
    let mut image = vec![0; total as usize * SECTOR];
    let mut put = |sector: u32, bytes: &[u8]| {
        let at = sector as usize * SECTOR;
        image[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(PRIMARY, &descriptor(Names::Primary, label, total));
    put(JOLIET, &descriptor(Names::Joliet, label, total));
    put(TERMINATOR, b"\xffCD001\x01");
    for ([little, big], root) in [(PATHS, ROOT), (JOLIET_PATHS, JOLIET_ROOT)] {
        put(little, &path_table(root.to_le_bytes(), 1u16.to_le_bytes()));
        put(big, &path_table(root.to_be_bytes(), 1u16.to_be_bytes()));
    }
    put(ROOT, &directory(Names::Primary, entries));
    put(EXTENSION, &extension_reference());
    put(JOLIET_ROOT, &directory(Names::Joliet, entries));
    let mut sector = DATA;
    for entry in entries {
        put(sector, entry.contents);
        sector += sectors(entry);
    }
    image
}

/// A primary (§8.4) or supplementary (§8.5, with Joliet's escape sequence) volume descriptor.
fn descriptor(names: Names, label: &str, total: u32) -> Vec<u8> {
    let (kind, escape, paths, root): (u8, &[u8], _, _) = match names {
        Names::Primary => (1, b"", PATHS, ROOT),
        // UCS-2 level 3 (Joliet §3.2).
        Names::Joliet => (2, b"%/E", JOLIET_PATHS, JOLIET_ROOT),
    };
    let mut bytes = Vec::with_capacity(SECTOR);
    bytes.push(kind);
    bytes.extend(b"CD001\x01\0");
    bytes.extend(padded(names, "", 32)); // system
    bytes.extend(padded(names, label, 32));
    bytes.extend([0; 8]);
    bytes.extend(both_32(total));
    bytes.extend(escape);
    bytes.resize(120, 0);
    bytes.extend(both_16(1)); // volumes in the set
    bytes.extend(both_16(1)); // this one's number
    bytes.extend(both_16(SECTOR as u16));
    bytes.extend(both_32(PATH_TABLE_SIZE));
    bytes.extend(paths[0].to_le_bytes());
    bytes.extend([0; 4]); // no second copy
    bytes.extend(paths[1].to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(record(&[0], root, SECTOR as u32, DIRECTORY, &[]));
    for length in [128; 4] {
        bytes.extend(padded(names, "", length)); // set, publisher, preparer, application
    }
    for length in [37; 3] {
        bytes.extend(padded(names, "", length)); // copyright, abstract, bibliography
    }
    for date in [LONG_DATE, LONG_DATE, NO_DATE, NO_DATE] {
        bytes.extend(date); // created, modified, expires, effective
    }
    bytes.push(1); // version of the file structure
    bytes
}

/// A text of a volume descriptor, filled up with spaces.
fn padded(names: Names, text: &str, length: usize) -> Vec<u8> {
    let mut bytes = match names {
        Names::Primary => text.as_bytes().to_vec(),
        Names::Joliet => ucs2(text),
    };
    while bytes.len() < length {
        match names {
            Names::Joliet if bytes.len() + 1 < length => bytes.extend([0, b' ']),
            // An odd last byte is none of a character.
            Names::Joliet => bytes.push(0),
            Names::Primary => bytes.push(b' '),
        }
    }
    bytes.truncate(length);
    bytes
}

fn path_table(root: [u8; 4], parent: [u8; 2]) -> Vec<u8> {
    let mut bytes = vec![1, 0];
    bytes.extend(root);
    bytes.extend(parent);
    bytes.extend([0, 0]);
    bytes
}

/// The root directory: itself, its parent, which it is too, and the files.
fn directory(names: Names, entries: &[Entry<'_>]) -> Vec<u8> {
    let (own, rock_ridge) = match names {
        Names::Primary => (ROOT, true),
        Names::Joliet => (JOLIET_ROOT, false),
    };
    let describe = |parts: &[Vec<u8>]| {
        if rock_ridge {
            parts.concat()
        } else {
            Vec::new()
        }
    };
    let posix = posix(0o040_555, 2);
    let this = describe(&[
        b"SP\x07\x01\xbe\xef\0".to_vec(),
        posix.clone(),
        times(),
        continuation(),
    ]);
    let parent = describe(&[posix, times()]);
    let mut bytes = record(&[0], own, SECTOR as u32, DIRECTORY, &this);
    bytes.extend(record(&[1], own, SECTOR as u32, DIRECTORY, &parent));
    let mut sector = DATA;
    for entry in entries {
        let size = entry.contents.len() as u32;
        let id = match names {
            Names::Primary => entry.plain.as_bytes().to_vec(),
            Names::Joliet => ucs2(entry.name),
        };
        let about = describe(&[name(entry.name), self::posix(0o100_444, 1), times()]);
        bytes.extend(record(&id, sector, size, 0, &about));
        sector += size.div_ceil(SECTOR as u32);
    }
    bytes
}

/// A directory record (§9.1). `system` is of even length.
fn record(id: &[u8], sector: u32, size: u32, flags: u8, system: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0];
    bytes.extend(both_32(sector));
    bytes.extend(both_32(size));
    bytes.extend(DATE);
    bytes.extend([flags, 0, 0]);
    bytes.extend(both_16(1));
    bytes.push(id.len() as u8);
    bytes.extend(id);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.extend(system);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes[0] = bytes.len() as u8;
    bytes
}

/// RRIP §4.1.1: mode, links, and root as owner.
fn posix(mode: u32, links: u32) -> Vec<u8> {
    let mut bytes = b"PX\x24\x01".to_vec();
    for number in [mode, links, 0, 0] {
        bytes.extend(both_32(number));
    }
    bytes
}

/// RRIP §4.1.6: when it was modified, used, and changed.
fn times() -> Vec<u8> {
    let mut bytes = b"TF\x1a\x01\x0e".to_vec();
    bytes.extend([DATE; 3].concat());
    bytes
}

/// RRIP §4.1.4: the name.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = b"NM\0\x01\0".to_vec();
    bytes.extend(text.as_bytes());
    bytes[2] = bytes.len() as u8;
    bytes
}

/// SUSP §5.1: the root's fields go on in another sector.
fn continuation() -> Vec<u8> {
    let mut bytes = b"CE\x1c\x01".to_vec();
    for number in [EXTENSION, 0, extension_reference().len() as u32] {
        bytes.extend(both_32(number));
    }
    bytes
}

/// SUSP §5.5, with the texts that RRIP §4.3 prescribes.
fn extension_reference() -> Vec<u8> {
    let texts = [
        "RRIP_1991A",
        "THE ROCK RIDGE INTERCHANGE PROTOCOL PROVIDES SUPPORT FOR POSIX FILE SYSTEM SEMANTICS",
        "PLEASE CONTACT DISC PUBLISHER FOR SPECIFICATION SOURCE.  SEE PUBLISHER IDENTIFIER IN \
         PRIMARY VOLUME DESCRIPTOR FOR CONTACT INFORMATION.",
    ];
    let mut bytes = b"ER\0\x01".to_vec();
    bytes.extend(texts.map(|text| text.len() as u8));
    bytes.push(1);
    bytes.extend(texts.concat().bytes());
    bytes[2] = bytes.len() as u8;
    bytes
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// §7.2.3: both byte orders.
fn both_16(number: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d]
}

/// §7.3.3: both byte orders.
fn both_32(number: u32) -> [u8; 8] {
    let ([a, b, c, d], [e, f, g, h]) = (number.to_le_bytes(), number.to_be_bytes());
    [a, b, c, d, e, f, g, h]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_have_their_fixed_places() {
        for names in [Names::Primary, Names::Joliet] {
            let bytes = descriptor(names, "cidata", 30);
            // §8.4: the root's record at 156, the version at 881.
            assert_eq!(bytes.len(), 882);
            assert_eq!(bytes[156], 34);
            assert_eq!(bytes[881], 1);
            assert_eq!(bytes[80..84], 30u32.to_le_bytes());
        }
    }

    #[test]
    fn lengths_fit_their_bytes() {
        assert_eq!(extension_reference().len(), 237);
        assert_eq!(times().len(), 0x1a);
        assert_eq!(posix(0, 0).len(), 0x24);
        let entries = [Entry {
            name: "network-config",
            plain: "NETWORK_CONFIG.;1",
            contents: b"",
        }];
        let bytes = directory(Names::Primary, &entries);
        assert!(bytes.len() < SECTOR);
        let (mut at, mut records) = (0, 0);
        while at < bytes.len() {
            at += usize::from(bytes[at]);
            records += 1;
        }
        assert_eq!((at, records), (bytes.len(), 3));
    }
}
