//! File names: protocols before a colon, and backing files relative to their overlay.

use crate::fail;
use crate::report::{Failure, Outcome};

/// Whether the name starts with a protocol: a colon before any slash.
pub fn has_protocol(name: &str) -> bool {
    name.find([':', '/'])
        .is_some_and(|at| name[at..].starts_with(':'))
}

/// The host path that a file name stands for.
///
/// # Errors
/// For protocols other than `file:`.
pub(super) fn local_path(name: &str) -> Outcome<&str> {
    if let Some(path) = name.strip_prefix("file:") {
        return Ok(path);
    }
    match name.split_once(':') {
        Some((protocol, _)) if has_protocol(name) => fail!("Unknown protocol '{protocol}'"),
        _ => Ok(name),
    }
}

/// `backing` as seen from where the overlay `overlay` lies.
///
/// # Errors
/// For a relative name below an overlay whose own place is not a path.
pub fn full_backing_name(overlay: &str, backing: &str) -> Outcome<String> {
    if backing.is_empty() || backing.starts_with('/') || has_protocol(backing) {
        return Ok(backing.to_owned());
    }
    if overlay.starts_with("json:") {
        return Err(
            Failure::new("Cannot use relative backing file names for 'json:' images").context(""),
        );
    }
    let (protocol, path) = match overlay.strip_prefix("file:") {
        Some(path) => ("file:", path),
        None => ("", overlay),
    };
    Ok(match path.rfind('/') {
        Some(slash) => format!("{protocol}{}{backing}", &path[..=slash]),
        None => format!("{protocol}{backing}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_names_are_relative_to_the_overlay() {
        let full = |overlay, backing| full_backing_name(overlay, backing).unwrap();
        assert_eq!(full("/a/b.qcow2", "c"), "/a/c");
        assert_eq!(full("b.qcow2", "c"), "c");
        assert_eq!(full("dir/b", "/c"), "/c");
        assert_eq!(full("dir/b", "nbd:c"), "nbd:c");
        assert_eq!(full("dir/b", "sub/x:y"), "dir/sub/x:y");
        assert!(full_backing_name("json:{}", "c").is_err());
    }

    #[test]
    fn protocols() {
        assert_eq!(local_path("file:/x:y").unwrap(), "/x:y");
        assert_eq!(local_path("./x:y").unwrap(), "./x:y");
        assert!(local_path("nbd:x").is_err());
    }
}
