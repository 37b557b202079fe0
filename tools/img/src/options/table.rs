//! Which options each format has.

use crate::disk::Format;

/// The type of an option's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `on` or `off`.
    Switch,
    /// A number.
    Number,
    /// A size with a suffix.
    Size,
}

/// One option.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// One line of help.
    pub help: &'static str,
    /// What is printed when it is not given.
    pub default: Option<&'static str>,
}

/// The options of one format, in the order in which they print.
pub type Table = Vec<Entry>;

const fn entry(name: &'static str, kind: Kind, help: &'static str) -> Entry {
    Entry {
        name,
        kind,
        help,
        default: None,
    }
}

const fn preset(mut entry: Entry, default: &'static str) -> Entry {
    entry.default = Some(default);
    entry
}

const SIZE: Entry = entry("size", Kind::Size, "Virtual disk size");

const FILE: [Entry; 4] = [
    SIZE,
    entry(
        "nocow",
        Kind::Switch,
        "Turn off copy-on-write (valid only on btrfs)",
    ),
    entry(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, falloc, full)",
    ),
    entry(
        "extent_size_hint",
        Kind::Size,
        "Extent size hint for the image file, 0 to disable",
    ),
];

const ITER_TIME: &str = "Time to spend in PBKDF in milliseconds";

const LUKS: [Entry; 9] = [
    SIZE,
    entry(
        "key-secret",
        Kind::Text,
        "ID of the secret that provides the keyslot passphrase",
    ),
    entry(
        "cipher-alg",
        Kind::Text,
        "Name of encryption cipher algorithm",
    ),
    entry("cipher-mode", Kind::Text, "Name of encryption cipher mode"),
    entry("ivgen-alg", Kind::Text, "Name of IV generator algorithm"),
    entry(
        "ivgen-hash-alg",
        Kind::Text,
        "Name of IV generator hash algorithm",
    ),
    entry("hash-alg", Kind::Text, "Name of encryption hash algorithm"),
    entry("iter-time", Kind::Number, ITER_TIME),
    entry(
        "detached-header",
        Kind::Switch,
        "Create a detached LUKS header",
    ),
];

const QCOW2_ENCRYPTION: [Entry; 13] = [
    entry(
        "encryption",
        Kind::Switch,
        "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
    ),
    entry(
        "encrypt.format",
        Kind::Text,
        "Encrypt the image, format choices: 'aes', 'luks'",
    ),
    entry(
        "encrypt.key-secret",
        Kind::Text,
        "ID of secret providing qcow AES key or LUKS passphrase",
    ),
    entry(
        "encrypt.cipher-alg",
        Kind::Text,
        "Name of encryption cipher algorithm",
    ),
    entry(
        "encrypt.cipher-mode",
        Kind::Text,
        "Name of encryption cipher mode",
    ),
    entry(
        "encrypt.ivgen-alg",
        Kind::Text,
        "Name of IV generator algorithm",
    ),
    entry(
        "encrypt.ivgen-hash-alg",
        Kind::Text,
        "Name of IV generator hash algorithm",
    ),
    entry(
        "encrypt.hash-alg",
        Kind::Text,
        "Name of encryption hash algorithm",
    ),
    entry("encrypt.iter-time", Kind::Number, ITER_TIME),
    preset(
        entry("cluster_size", Kind::Size, "qcow2 cluster size"),
        "65536",
    ),
    preset(
        entry("extended_l2", Kind::Switch, "Extended L2 tables"),
        "off",
    ),
    entry(
        "preallocation",
        Kind::Text,
        "Preallocation mode (allowed values: off, metadata, falloc, full)",
    ),
    preset(
        entry(
            "compression_type",
            Kind::Text,
            "Compression method used for image cluster compression",
        ),
        "zlib",
    ),
];

const QCOW2: [Entry; 8] = [
    SIZE,
    entry(
        "compat",
        Kind::Text,
        "Compatibility level (v2 [0.10] or v3 [1.1])",
    ),
    entry("backing_file", Kind::Text, "File name of a base image"),
    entry("backing_fmt", Kind::Text, "Image format of the base image"),
    entry(
        "data_file",
        Kind::Text,
        "File name of an external data file",
    ),
    entry(
        "data_file_raw",
        Kind::Switch,
        "The external data file must stay valid as a raw image",
    ),
    preset(
        entry("lazy_refcounts", Kind::Switch, "Postpone refcount updates"),
        "off",
    ),
    preset(
        entry(
            "refcount_bits",
            Kind::Number,
            "Width of a reference count entry in bits",
        ),
        "16",
    ),
];

const STATE: &str = "Select new state of affected keyslots (active/inactive)";
const KEYSLOT: &str = "Select a single keyslot to modify explicitly";
const OLD_SECRET: &str = "Select all keyslots that match this password";
const NEW_SECRET: &str = "New secret to set in the matching keyslots. Empty string to erase";

const LUKS_AMEND: [Entry; 5] = [
    entry("state", Kind::Text, STATE),
    entry("keyslot", Kind::Number, KEYSLOT),
    entry("old-secret", Kind::Text, OLD_SECRET),
    entry("new-secret", Kind::Text, NEW_SECRET),
    entry("iter-time", Kind::Number, ITER_TIME),
];

const QCOW2_AMEND_ENCRYPTION: [Entry; 5] = [
    entry("encrypt.state", Kind::Text, STATE),
    entry("encrypt.keyslot", Kind::Number, KEYSLOT),
    entry("encrypt.old-secret", Kind::Text, OLD_SECRET),
    entry("encrypt.new-secret", Kind::Text, NEW_SECRET),
    entry("encrypt.iter-time", Kind::Number, ITER_TIME),
];

/// The options for creating an image; `with_file` adds those of the file below it.
pub fn create_table(format: Format, with_file: bool) -> Table {
    let mut table: Table = match format {
        Format::Qcow2 => QCOW2_ENCRYPTION.into_iter().chain(QCOW2).collect(),
        Format::Luks => LUKS.into(),
        Format::Raw => vec![SIZE],
    };
    if with_file {
        let new: Vec<_> = FILE
            .into_iter()
            .filter(|new| table.iter().all(|old| old.name != new.name))
            .collect();
        table.extend(new);
    }
    table
}

/// The options that can be changed later; None for formats without any.
pub fn amend_table(format: Format) -> Option<Table> {
    match format {
        Format::Qcow2 => Some(QCOW2_AMEND_ENCRYPTION.into_iter().chain(QCOW2).collect()),
        Format::Luks => Some(LUKS_AMEND.into()),
        Format::Raw => None,
    }
}
