//! LUKS headers: keys, ciphers and new volumes.

use std::io;
use std::sync::Arc;

use strata_luks::{Cipher, CipherSpec, CreateOptions, Error, Hash, HeaderStorage, Mode};
use strata_qcow2::luks::{self, HeaderArea};
use strata_qcow2::{Storage, Unlocked};
use zeroize::Zeroizing;

use super::words::luks_words;
use crate::fail;
use crate::options::Values;
use crate::report::{Failure, Outcome};

/// Opens a LUKS header with a passphrase.
pub(super) struct Key(pub Zeroizing<Vec<u8>>);

impl strata_qcow2::Unlock for Key {
    fn unlock(&self, header: &dyn Storage, _length: u64) -> strata_qcow2::Result<Unlocked> {
        luks::unlock(header, &self.0).map_err(image_error)
    }
}

/// Makes the LUKS header of a new qcow2 image.
pub(super) struct NewVolume {
    /// Algorithms and time.
    pub options: CreateOptions,
    /// What opens its first key slot.
    pub passphrase: Zeroizing<Vec<u8>>,
}

impl strata_qcow2::Format for NewVolume {
    fn header_length(&self) -> u64 {
        strata_luks::header_area_len(self.options.cipher)
    }

    fn format(&self, header: &dyn Storage) -> strata_qcow2::Result<Arc<dyn strata_qcow2::Cipher>> {
        luks::format(header, &self.options, &self.passphrase).map_err(image_error)
    }
}

/// The creation options whose names start with `prefix`.
///
/// # Errors
/// For algorithms that are not supported and a key that is not there.
pub(super) fn new_volume(values: &Values, prefix: &str) -> Outcome<NewVolume> {
    let text = |name: &str| values.text(&format!("{prefix}{name}"));
    let cipher = cipher_spec(values, prefix)?;
    let hash = Hash::from_name(text("hash-alg").unwrap_or("sha256")).map_err(luks_failure)?;
    let Some(secret) = text("key-secret") else {
        fail!("Parameter '{prefix}key-secret' is required for cipher");
    };
    let iter_time = iter_time(values, prefix)?;
    let options = CreateOptions {
        cipher,
        hash,
        iter_time,
    };
    Ok(NewVolume {
        options,
        passphrase: super::secret::passphrase(secret)?,
    })
}

fn cipher_spec(values: &Values, prefix: &str) -> Outcome<CipherSpec> {
    check_algorithms(values, prefix)?;
    let text = |name: &str| values.text(&format!("{prefix}{name}"));
    let cipher = text("cipher-alg").unwrap_or("aes-256");
    let mode = text("cipher-mode").unwrap_or("xts");
    let generator = text("ivgen-alg").unwrap_or("plain64");
    let mode = match (generator, text("ivgen-hash-alg")) {
        ("essiv", hash) => format!("{mode}-essiv:{}", hash.unwrap_or("sha256")),
        (plain, _) => format!("{mode}-{plain}"),
    };
    Ok(CipherSpec {
        cipher: Cipher::from_name(cipher).map_err(luks_failure)?,
        mode: Mode::from_name(&mode).map_err(luks_failure)?,
    })
}

/// What qemu-img knows by name, of which the LUKS crate has less.
const ALGORITHMS: [(&str, &[&str]); 5] = [
    (
        "cipher-alg",
        &[
            "aes-128",
            "aes-192",
            "aes-256",
            "des",
            "3des",
            "cast5-128",
            "serpent-128",
            "serpent-192",
            "serpent-256",
            "twofish-128",
            "twofish-192",
            "twofish-256",
            "sm4",
        ],
    ),
    ("cipher-mode", &["ecb", "cbc", "xts", "ctr"]),
    ("ivgen-alg", &["plain", "plain64", "essiv"]),
    ("ivgen-hash-alg", HASHES),
    ("hash-alg", HASHES),
];
const HASHES: &[&str] = &[
    "md5",
    "sha1",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "ripemd160",
    "sm3",
];

fn check_algorithms(values: &Values, prefix: &str) -> Outcome<()> {
    for (name, known) in ALGORITHMS {
        if let Some(value) = values.text(&format!("{prefix}{name}"))
            && !known.contains(&value)
        {
            fail!("Parameter '{name}' does not accept value '{value}'");
        }
    }
    Ok(())
}

/// How long PBKDF2 shall take.
///
/// # Errors
/// For zero.
pub fn iter_time(values: &Values, prefix: &str) -> Outcome<std::time::Duration> {
    match values.number(&format!("{prefix}iter-time")) {
        Some(0) => fail!("iter-time must be at least 1"),
        Some(ms) => Ok(std::time::Duration::from_millis(ms)),
        None => Ok(CreateOptions::default().iter_time),
    }
}

/// A failure in the LUKS crate's words.
pub fn luks_failure(error: Error) -> Failure {
    Failure::new(luks_words(&error))
}

fn image_error(error: Error) -> strata_qcow2::Error {
    strata_qcow2::Error::Encryption(luks_words(&error))
}

/// The payload of a volume without its key: its size is right, its bytes are not to be read.
///
/// # Errors
/// For an invalid header.
pub(super) fn locked(file: &Arc<dyn Storage>) -> Outcome<Arc<dyn Storage>> {
    let header = strata_luks::read_header(&HeaderArea(&**file)).map_err(luks_failure)?;
    let len = file
        .len()
        .map_err(|error| Failure::new(error.to_string()))?;
    Ok(Arc::new(super::null::NullStorage::new(
        len.saturating_sub(header.payload_offset()),
    )))
}

/// The LUKS header of a disk, whether it is the file's or lies inside of a qcow2 image.
pub fn luks_header(disk: &super::Disk) -> Option<strata_luks::Header> {
    match disk.image() {
        None if disk.format == super::Format::Luks => {
            strata_luks::read_header(&HeaderArea(&*disk.file)).ok()
        }
        None => None,
        Some(image) => {
            let place = image.header().crypto_header()?;
            let area = Part {
                storage: &*disk.file,
                start: place.offset,
                length: place.length,
            };
            strata_luks::read_header(&area).ok()
        }
    }
}

/// A header area inside of a larger file.
pub struct Part<'a> {
    /// The file.
    pub storage: &'a dyn Storage,
    /// Where the area starts in it.
    pub start: u64,
    /// Its length.
    pub length: u64,
}

impl Part<'_> {
    fn place(&self, offset: u64, length: usize) -> io::Result<u64> {
        match offset.checked_add(length as u64) {
            Some(end) if end <= self.length => self
                .start
                .checked_add(offset)
                .ok_or_else(|| io::ErrorKind::InvalidInput.into()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

impl HeaderStorage for Part<'_> {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let at = self.place(offset, buf.len())?;
        HeaderArea(self.storage).read_at(at, buf)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        let at = self.place(offset, buf.len())?;
        HeaderArea(self.storage).write_at(at, buf)
    }

    fn flush(&self) -> io::Result<()> {
        self.storage.flush()
    }
}

/// Bytes in front of the payload of the volume that `values` describe.
///
/// # Errors
/// For algorithms that are not supported, and without the name of a secret, as qemu-img has it.
pub fn new_volume_area(values: &Values) -> Outcome<u64> {
    let spec = cipher_spec(values, "")?;
    if values.text("key-secret").is_none() {
        fail!("Parameter 'key-secret' is required for cipher");
    }
    Ok(strata_luks::header_area_len(spec))
}
