//! The raw disk: an ext4 file system, in a partition or alone. Nothing is mounted.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result};
use crate::gpt;
use crate::host;
use crate::key::{self, Key};
use crate::process::Runner;
use crate::request::{Request, Variant};

/// Unpacks `tar` below `tree` and makes a file system of it, with the owners that the archive
/// names. $1: archive, $2: tree, $3...: mke2fs and its arguments.
const SCRIPT: &str = r#"set -eu
tar --extract --file "$1" --directory "$2" --numeric-owner --same-owner --preserve-permissions \
    --xattrs --xattrs-include='*' $EXCLUDE
shift 2
exec "$@""#;

/// Builds the disk `to` from the packed tree `tar`. `epoch` is the file system's birth.
pub(crate) fn build(
    request: &Request,
    key: &Key,
    epoch: u64,
    tar: &Path,
    to: &Path,
    runner: &Runner,
) -> Result<()> {
    runner.say("making the file system");
    let tree = to.with_file_name("tree");
    fs::create_dir(&tree).map_err(Error::file("create", &tree))?;
    let file = File::create_new(to).map_err(Error::file("create", to))?;
    let size = request.size();
    file.set_len(size)
        .map_err(Error::file("make room in", to))?;
    let (offset, length) = match request.variant() {
        Variant::Standard => (gpt::START, gpt::partition_size(size)),
        Variant::Test => (0, size),
    };
    // A file that was just made holds zeroes. Without the lazy start, no thread of the guest's
    // kernel writes to an idle disk.
    let extended = format!(
        "offset={offset},hash_seed={},assume_storage_prezeroed=1,lazy_itable_init=0",
        key::text(&key.uuid("hash seed"))
    );
    let mut make = host::as_owner("sh");
    make.args(["-c", SCRIPT, "sh"])
        .arg(tar)
        .arg(&tree)
        .args([
            "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-L", "root", "-E", &extended,
        ])
        .args(["-U", &key::text(&key.uuid("file system"))])
        .arg("-d")
        .arg(&tree)
        .arg(to)
        .arg(format!("{}k", length / 1024))
        .env("PATH", host::path())
        .env("EXCLUDE", exclude(request.variant()))
        // e2fsprogs before 1.47.1 and since.
        .env("E2FSPROGS_FAKE_TIME", epoch.to_string())
        .env("SOURCE_DATE_EPOCH", epoch.to_string());
    runner
        .run(&mut make, to, |_| {})
        .map_err(|error| match error {
            Error::Program { output, .. } if is_full(&output) => {
                Error::TooSmall { mib: size >> 20 }
            }
            other => other,
        })?;
    if request.variant() == Variant::Standard {
        let table = gpt::table(size, key.uuid("disk"), key.uuid("partition"));
        let at = size - table.tail.len() as u64;
        file.write_all_at(&table.head, 0)
            .and_then(|()| file.write_all_at(&table.tail, at))
            .map_err(Error::file("write", to))?;
    }
    remove_tree(&tree)
}

/// A test's kernel is never updated from within.
fn exclude(variant: Variant) -> &'static str {
    match variant {
        Variant::Standard => "",
        Variant::Test => "--exclude=./boot/*",
    }
}

/// Whether mke2fs says that the tree does not fit.
fn is_full(output: &str) -> bool {
    let signs = [
        "Could not allocate",
        "No free space",
        "no free space",
        "too small",
        "not enough space",
    ];
    signs.iter().any(|sign| output.contains(sign))
}

/// Removes a tree whose directories may not let their owner in.
fn remove_tree(tree: &Path) -> Result<()> {
    if fs::remove_dir_all(tree).is_err() {
        let mut chmod = Command::new("chmod");
        // What it can not do shows in the removal.
        let _ = chmod.args(["-R", "u+rwX"]).arg(tree).status();
        fs::remove_dir_all(tree).map_err(Error::file("remove", tree))?;
    }
    Ok(())
}
