//! Names of ciphers, modes, IV generators and hashes, as LUKS1 headers spell them.

use crate::{Error, Result};

/// A hash for PBKDF2, the anti-forensic splitter and the master key digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Hash {
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Hash {
    /// The `hash-spec` text.
    pub fn name(self) -> &'static str {
        match self {
            Hash::Sha1 => "sha1",
            Hash::Sha256 => "sha256",
            Hash::Sha512 => "sha512",
        }
    }

    /// Parses a `hash-spec` text.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for any other hash.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "sha1" => Ok(Hash::Sha1),
            "sha256" => Ok(Hash::Sha256),
            "sha512" => Ok(Hash::Sha512),
            _ => Err(unsupported("hash algorithm", name)),
        }
    }
}

/// AES with one of its key sizes.
///
/// AES-192 is missing on purpose: its key material is not whole sectors, and implementations
/// do not agree on what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Cipher {
    /// 128-bit key.
    Aes128,
    /// 256-bit key.
    Aes256,
}

impl Cipher {
    /// Bytes of one AES key.
    pub fn key_len(self) -> usize {
        match self {
            Cipher::Aes128 => 16,
            Cipher::Aes256 => 32,
        }
    }

    /// `aes-128` or `aes-256`.
    pub fn name(self) -> &'static str {
        match self {
            Cipher::Aes128 => "aes-128",
            Cipher::Aes256 => "aes-256",
        }
    }

    /// Parses `aes-128` or `aes-256`.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for any other cipher.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "aes-128" => Ok(Cipher::Aes128),
            "aes-256" => Ok(Cipher::Aes256),
            _ => Err(unsupported("cipher", name)),
        }
    }
}

/// How sectors are enciphered: the mode and its IV generator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Mode {
    /// XTS (IEEE 1619) with the 64-bit sector number as tweak.
    XtsPlain64,
    /// XTS with the sector number's low 32 bits as tweak.
    XtsPlain,
    /// CBC with the 64-bit sector number as IV.
    CbcPlain64,
    /// CBC with the sector number's low 32 bits as IV.
    CbcPlain,
    /// CBC with ESSIV: the sector number enciphered by the key's SHA-256.
    CbcEssivSha256,
}

impl Mode {
    /// The `cipher-mode` text.
    pub fn name(self) -> &'static str {
        match self {
            Mode::XtsPlain64 => "xts-plain64",
            Mode::XtsPlain => "xts-plain",
            Mode::CbcPlain64 => "cbc-plain64",
            Mode::CbcPlain => "cbc-plain",
            Mode::CbcEssivSha256 => "cbc-essiv:sha256",
        }
    }

    /// Parses a `cipher-mode` text.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for any other mode.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "xts-plain64" => Ok(Mode::XtsPlain64),
            "xts-plain" => Ok(Mode::XtsPlain),
            "cbc-plain64" => Ok(Mode::CbcPlain64),
            "cbc-plain" => Ok(Mode::CbcPlain),
            "cbc-essiv:sha256" => Ok(Mode::CbcEssivSha256),
            _ => Err(unsupported("cipher mode", name)),
        }
    }

    /// Whether this is one of the XTS modes, whose keys are twice as long.
    pub fn is_xts(self) -> bool {
        matches!(self, Mode::XtsPlain64 | Mode::XtsPlain)
    }
}

/// A cipher together with its mode: what one master key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CipherSpec {
    /// The block cipher.
    pub cipher: Cipher,
    /// Mode and IV generator.
    pub mode: Mode,
}

impl CipherSpec {
    /// Bytes of a master key: twice the AES key for XTS (IEEE 1619 §5.1).
    pub fn key_len(self) -> usize {
        self.cipher.key_len() * if self.mode.is_xts() { 2 } else { 1 }
    }

    /// The specification that a header's `cipher-name`, `cipher-mode` and `key-bytes` name.
    ///
    /// # Errors
    /// [`Error::Algorithm`] for anything but AES in a known mode, [`Error::Field`] for a key
    /// length that the mode does not have.
    pub fn from_header(cipher_name: &str, cipher_mode: &str, key_bytes: u32) -> Result<Self> {
        if cipher_name != "aes" {
            return Err(unsupported("cipher", cipher_name));
        }
        let mode = Mode::from_name(cipher_mode)?;
        let cipher = match (mode.is_xts(), key_bytes) {
            (false, 16) | (true, 32) => Cipher::Aes128,
            (false, 32) | (true, 64) => Cipher::Aes256,
            _ => {
                return Err(Error::Field {
                    field: "key-bytes",
                    value: key_bytes.into(),
                });
            }
        };
        Ok(Self { cipher, mode })
    }
}

impl Default for CipherSpec {
    /// `aes-256` in `xts-plain64`, as QEMU and cryptsetup choose.
    fn default() -> Self {
        Self {
            cipher: Cipher::Aes256,
            mode: Mode::XtsPlain64,
        }
    }
}

fn unsupported(what: &'static str, name: &str) -> Error {
    Error::Algorithm {
        what,
        name: name.to_owned(),
    }
}
