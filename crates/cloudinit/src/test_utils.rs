//! Reads images back, for tests: written from the standard, without a line of what writes them.

use std::collections::BTreeMap;

/// Which of a volume's directories is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// ECMA-119's own, with its short names.
    Plain,
    /// The same with Rock Ridge's names.
    RockRidge,
    /// Joliet's.
    Joliet,
}

/// A volume that was read: its label and its files by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// The label, without the spaces that fill it up.
    pub label: String,
    /// The files of its root directory.
    pub files: BTreeMap<String, Vec<u8>>,
}

const SECTOR: usize = 2048;

/// Reads a volume with one directory. `None` if it is no such volume; any bytes may be given.
pub fn read(image: &[u8], view: View) -> Option<Volume> {
    let kind = if view == View::Joliet { 2 } else { 1 };
    let descriptor = (16..64)
        .map_while(|number| sectors(image, number, SECTOR))
        .take_while(|sector| sector.get(1..6) == Some(b"CD001") && sector.first() != Some(&255))
        .find(|sector| sector.first() == Some(&kind))?;
    if view == View::Joliet && descriptor.get(88..91) != Some(b"%/E") {
        return None;
    }
    let total = usize::try_from(number(descriptor, 80)?).ok()?;
    if total.checked_mul(SECTOR)? > image.len() {
        return None;
    }
    let label = text(descriptor.get(40..72)?, view);
    let label = label.trim_end_matches([' ', '\0']).to_owned();
    let root = descriptor.get(156..190)?;
    path_tables(image, descriptor, number(root, 2)?)?;
    let root = extent(image, root)?;
    if view == View::RockRidge {
        extension(image, root)?;
    }
    let mut files = BTreeMap::new();
    let mut rest = root;
    while let Some(length @ 1..) = rest.first().map(|length| usize::from(*length)) {
        let (record, next) = rest.split_at_checked(length)?;
        rest = next;
        let name_length = usize::from(*record.get(32)?);
        let id = record.get(33..33 + name_length)?;
        if record.get(25)? & 2 != 0 {
            continue;
        }
        let name = match view {
            View::RockRidge => {
                rock_ridge_name(record.get((33 + name_length).next_multiple_of(2)..)?)?
            }
            View::Plain | View::Joliet => text(id, view),
        };
        files.insert(name, extent(image, record)?.to_vec());
    }
    Some(Volume { label, files })
}

/// Sees that both path tables (ECMA-119 §9.4) name the root, and nothing else.
fn path_tables(image: &[u8], descriptor: &[u8], root: u32) -> Option<()> {
    let size = usize::try_from(number(descriptor, 132)?).ok()?;
    let little = u32::from_le_bytes(*descriptor.get(140..)?.first_chunk()?);
    let big = u32::from_be_bytes(*descriptor.get(148..)?.first_chunk()?);
    for (at, location, parent) in [
        (little, root.to_le_bytes(), [1, 0]),
        (big, root.to_be_bytes(), [0, 1]),
    ] {
        let table = sectors(image, usize::try_from(at).ok()?, size)?;
        let expected = [&[1, 0][..], &location, &parent, &[0, 0]].concat();
        if table != expected {
            return None;
        }
    }
    Some(())
}

/// Sees that the root announces Rock Ridge (SUSP §5.3, §5.1 and §5.5): SP first, and an ER where
/// CE says.
fn extension(image: &[u8], root: &[u8]) -> Option<()> {
    let record = root.get(..usize::from(*root.first()?))?;
    let fields = record.get(34..)?;
    if !fields.starts_with(b"SP\x07\x01\xbe\xef") {
        return None;
    }
    let more = field(fields, b"CE").filter(|more| more.len() == 28)?;
    let whole = |at| usize::try_from(number(more, at)?).ok();
    let (sector, offset, length) = (whole(4)?, whole(12)?, whole(20)?);
    let area = sectors(image, sector, offset.checked_add(length)?)?.get(offset..)?;
    let reference = field(area, b"ER")?;
    let lengths = reference
        .get(4..7)?
        .iter()
        .map(|length| usize::from(*length));
    let complete = reference.len() == 8 + lengths.sum::<usize>() && area.len() == reference.len();
    (complete && reference.get(8..18)? == b"RRIP_1991A").then_some(())
}

/// The name in a record's system use area; the record must have POSIX attributes too.
fn rock_ridge_name(area: &[u8]) -> Option<String> {
    let mode = number(field(area, b"PX")?, 4)?;
    let name = field(area, b"NM")?.get(5..)?;
    (mode & 0o170_000 == 0o100_000).then_some(())?;
    String::from_utf8(name.to_vec()).ok()
}

/// The first field with this signature in a system use area, all of it.
fn field<'a>(mut area: &'a [u8], signature: &[u8; 2]) -> Option<&'a [u8]> {
    loop {
        let length = usize::from(*area.get(2)?);
        let (entry, rest) = area.split_at_checked(length.max(4))?;
        if entry.starts_with(signature) {
            return Some(entry);
        }
        area = rest;
    }
}

/// The bytes that a directory record points to.
fn extent<'a>(image: &'a [u8], record: &[u8]) -> Option<&'a [u8]> {
    let start = usize::try_from(number(record, 2)?).ok()?;
    sectors(image, start, usize::try_from(number(record, 10)?).ok()?)
}

fn sectors(image: &[u8], start: usize, length: usize) -> Option<&[u8]> {
    let start = start.checked_mul(SECTOR)?;
    image.get(start..start.checked_add(length)?)
}

/// A number in both byte orders, if they agree.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let little = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
    let big = u32::from_be_bytes(*bytes.get(at + 4..)?.first_chunk()?);
    (little == big).then_some(little)
}

fn text(bytes: &[u8], view: View) -> String {
    if view != View::Joliet {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    let units: Vec<_> = bytes
        .chunks_exact(2)
        .map(|pair| u16::from_be_bytes([pair[0], pair[1]]))
        .collect();
    String::from_utf16_lossy(&units)
}
