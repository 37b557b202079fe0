//! Errors in qemu's words: error numbers for failed requests, sentences for failed opens.

use std::io;

use strata_qcow2::Error;

/// The error number that a failed request has.
pub fn errno(error: &Error) -> i32 {
    match error {
        Error::Io { source, .. } => io_errno(source),
        Error::InFile { source, .. } => errno(source),
        Error::UnknownFeatures(_) | Error::Unsupported(_) => libc::ENOTSUP,
        Error::TooLarge { .. } => libc::EFBIG,
        Error::Overlap { .. }
        | Error::InvalidAllocation { .. }
        | Error::Broken
        | Error::OutOfRange { .. } => libc::EIO,
        Error::Malformed {
            structure: "snapshot L1 table",
            ..
        } => libc::EINVAL,
        Error::Malformed {
            structure: "snapshot table" | "snapshot table entry",
            ..
        } => libc::EFBIG,
        Error::Malformed { .. } | Error::Decompress { .. } => libc::EIO,
        Error::ReadOnly | Error::NotAllowed(_) => libc::EPERM,
        Error::Corrupt => libc::EACCES,
        Error::NotFound { .. } => libc::ENOENT,
        Error::Exists { .. } => libc::EEXIST,
        _ => libc::EINVAL,
    }
}

/// The error number of an I/O error.
pub(super) fn io_errno(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(match error.kind() {
        io::ErrorKind::StorageFull => libc::ENOSPC,
        io::ErrorKind::PermissionDenied => libc::EACCES,
        io::ErrorKind::InvalidInput => libc::EINVAL,
        io::ErrorKind::FileTooLarge => libc::EFBIG,
        io::ErrorKind::Unsupported => libc::ENOTSUP,
        _ => libc::EIO,
    })
}

/// What an image that does not open has wrong.
pub fn words(error: &Error) -> String {
    match error {
        Error::InFile { source, .. } => words(source),
        Error::Malformed {
            structure, reason, ..
        } => malformed(structure, reason),
        Error::TooLarge { what, .. } => too_large(what),
        Error::Io { source, .. } => crate::report::errno_text(io_errno(source)),
        other => other.to_string(),
    }
}

fn malformed(structure: &str, reason: &str) -> String {
    match (structure, reason) {
        ("refcount table", "invalid offset") => "Reference count table offset invalid".into(),
        ("snapshot table", "invalid offset") => "Snapshot table offset invalid".into(),
        ("active L1 table", "invalid offset") => "Active L1 table offset invalid".into(),
        ("snapshot L1 table", "invalid offset") => "Snapshot L1 table offset invalid".into(),
        ("snapshot table entry" | "snapshot table", _) => snapshot_table(reason),
        _ => reason.to_owned(),
    }
}

/// The name of the program that can repair images.
pub fn repair_tool() -> &'static str {
    match crate::report::program() {
        "qemu-img" | "qemu-io" => "qemu-img",
        _ => "strata-img",
    }
}

/// What is wrong with a snapshot table, and how to get rid of it.
fn snapshot_table(reason: &str) -> String {
    let tool = repair_tool();
    if let Some(rest) = reason.strip_prefix("too much extra metadata") {
        return format!(
            "Too much extra metadata{rest}\nYou can force-remove this extra metadata with {tool} \
             check -r all"
        );
    }
    match reason.strip_prefix("too big by ") {
        Some(rest) => format!(
            "Snapshot table is too big\nYou can force-remove all {rest} with {tool} check -r all"
        ),
        None => reason.to_owned(),
    }
}

fn too_large(what: &str) -> String {
    match what {
        "refcount table" => "Reference count table too large".into(),
        "number of snapshots" => "Snapshot table too large".into(),
        "image size" => "Image is too big".into(),
        "backing file name" => "Backing file name too long".into(),
        _ => {
            let mut letters = what.chars();
            let first = letters.next().map(|c| c.to_ascii_uppercase());
            format!(
                "{}{} too large",
                first.unwrap_or_default(),
                letters.as_str()
            )
        }
    }
}

/// The LUKS crate's error without the chain of its causes.
pub(super) fn luks_words(error: &strata_luks::Error) -> String {
    match error {
        strata_luks::Error::Read { source, .. } => {
            format!(
                "Unable to read LUKS header: {}",
                crate::report::errno_text(io_errno(source))
            )
        }
        other => other.to_string(),
    }
}
