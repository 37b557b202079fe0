//! Header extensions: type, length, data, padded to 8 bytes.

use super::bytes::{get_u32, get_u64};
use crate::error::{Error, Result};

pub(crate) const END: u32 = 0;
pub(crate) const BACKING_FORMAT: u32 = 0xe279_2aca;
pub(crate) const FEATURE_NAMES: u32 = 0x6803_f857;
pub(crate) const BITMAPS: u32 = 0x2385_2875;
pub(crate) const CRYPTO: u32 = 0x0537_be77;
pub(crate) const DATA_FILE: u32 = 0x4441_5441;

/// One header extension, known or not. Unknown ones are kept as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extension {
    /// The type.
    pub kind: u32,
    /// The data, without padding.
    pub data: Vec<u8>,
}

/// Where the LUKS header of an encrypted image lies, in bytes of the image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CryptoHeader {
    /// Offset, a multiple of the cluster size.
    pub offset: u64,
    /// Length.
    pub length: u64,
}

/// Decodes the extensions in `area`, which starts at `base` in the file.
pub(crate) fn decode(area: &[u8], base: u64) -> Result<Vec<Extension>> {
    let mut list = Vec::new();
    let mut at = 0;
    while at < area.len() {
        let too_large =
            || Error::malformed("header", base + at as u64, "Header extension too large");
        if area.len() - at < 8 {
            // Padding is no extension, but anything else is one without its length.
            match area[at..].iter().all(|byte| *byte == 0) {
                true => break,
                false => return Err(too_large()),
            }
        }
        let kind = get_u32(area, at);
        if kind == END {
            break;
        }
        let length = get_u32(area, at + 4) as usize;
        let start = at + 8;
        let data = start
            .checked_add(length)
            .and_then(|end| area.get(start..end));
        let Some(data) = data else {
            return Err(too_large());
        };
        list.push(Extension {
            kind,
            data: data.to_vec(),
        });
        at = start + length.next_multiple_of(8);
    }
    Ok(list)
}

/// Encodes the extensions and the end mark.
pub(crate) fn encode(list: &[Extension]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for extension in list {
        bytes.extend_from_slice(&extension.kind.to_be_bytes());
        bytes.extend_from_slice(&(extension.data.len() as u32).to_be_bytes());
        bytes.extend_from_slice(&extension.data);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
    }
    bytes.extend_from_slice(&[0; 8]);
    bytes
}

pub(crate) fn find(list: &[Extension], kind: u32) -> Option<&[u8]> {
    // Where an extension is there twice, the later one counts.
    list.iter()
        .rfind(|extension| extension.kind == kind)
        .map(|e| e.data.as_slice())
}

/// Replaces the data of an extension, adds it, or (None) removes it.
pub(crate) fn set(list: &mut Vec<Extension>, kind: u32, data: Option<Vec<u8>>) {
    let place = list.iter().rposition(|extension| extension.kind == kind);
    match (place, data) {
        (Some(at), Some(data)) => list[at].data = data,
        (None, Some(data)) => list.push(Extension { kind, data }),
        (Some(_), None) => list.retain(|extension| extension.kind != kind),
        (None, None) => {}
    }
}

/// The same as [`set`], but a new extension comes first: then the backing file's format lies in
/// the first sector with the rest of what names the backing file.
pub(crate) fn set_first(list: &mut Vec<Extension>, kind: u32, data: Option<Vec<u8>>) {
    match data {
        Some(data) if find(list, kind).is_none() => list.insert(0, Extension { kind, data }),
        data => set(list, kind, data),
    }
}

impl CryptoHeader {
    pub(crate) fn decode(data: &[u8]) -> Option<Self> {
        (data.len() >= 16).then(|| Self {
            offset: get_u64(data, 0),
            length: get_u64(data, 8),
        })
    }

    pub(crate) fn encode(self) -> Vec<u8> {
        [self.offset.to_be_bytes(), self.length.to_be_bytes()].concat()
    }
}
