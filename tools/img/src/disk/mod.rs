//! Disks as the commands see them: a chain of images over files, whatever their format.

mod blkdebug;
mod create;
mod data;
mod filename;
mod flags;
mod luks;
mod nested;
mod null;
mod open;
mod options;
mod probe;
mod protocol;
mod qcow2;
mod status;
mod words;

pub mod secret;

pub use create::{Creation, create, qcow2_options};
pub use data::Disk;
pub use filename::{full_backing_name, has_protocol};
pub use flags::{Cache, Flags};
pub use luks::{Part, iter_time, luks_failure, luks_header, new_volume_area};
pub use open::{open, open_name};
pub use options::Options;
pub use qcow2::outdate;
pub use status::{Status, chain as chain_status};
pub use words::{errno, repair_tool, words};

use crate::report::{Failure, Outcome};

/// The image formats that are supported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// The bytes as they are.
    Raw,
    /// qcow2, versions 2 and 3.
    Qcow2,
    /// A LUKS1 volume.
    Luks,
}

/// Formats of other programs, known by name only.
const FOREIGN: [&str; 11] = [
    "bochs",
    "cloop",
    "dmg",
    "parallels",
    "qcow",
    "qed",
    "vdi",
    "vhdx",
    "vmdk",
    "vpc",
    "vvfat",
];

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Format::Luks, Format::Qcow2, Format::Raw];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Format::Raw => "raw",
            Format::Qcow2 => "qcow2",
            Format::Luks => "luks",
        }
    }

    /// The format of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            // Devices need no driver of their own here.
            "file" | "host_device" => Some(Format::Raw),
            _ => Self::ALL.into_iter().find(|format| format.name() == name),
        }
    }

    /// The format of this name, or a failure that says why there is none.
    ///
    /// # Errors
    /// Naming the format.
    pub fn require(name: &str) -> Outcome<Self> {
        Self::from_name(name).ok_or_else(|| Failure::new(unknown("file format", name)))
    }
}

/// What is said of a format or driver that is not there.
fn unknown(what: &str, name: &str) -> String {
    match FOREIGN.contains(&name) {
        true => format!("Format '{name}' is not supported"),
        false => format!("Unknown {what} '{name}'"),
    }
}
