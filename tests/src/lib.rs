#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod disk;
mod guest;
mod level1;
mod qmp;

use std::path::{Path, PathBuf};

pub use disk::Disks;
pub use guest::Guest;
pub use level1::Level1;
pub use qmp::Qmp;
pub use strata_lab::{CMDLINE, Config};

/// The program under test: `$STRATA_BIN`, or the workspace's release build.
///
/// # Panics
/// When there is none, with the command that builds it.
pub fn strata() -> PathBuf {
    program("STRATA_BIN", "strata")
}

/// The tool for disk images: `$STRATA_IMG_BIN`, or the workspace's release build.
///
/// # Panics
/// When there is none, with the command that builds it.
pub fn strata_img() -> PathBuf {
    program("STRATA_IMG_BIN", "strata-img")
}

/// A program of the workspace, and its package's name.
fn program(variable: &str, name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let path = std::env::var_os(variable).map_or_else(
        || {
            root.unwrap_or(Path::new(""))
                .join("target/x86_64-unknown-linux-gnu/release")
                .join(name)
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo build --release -p {name}`, or name another in \
         {variable}",
        path.display()
    );
    path
}
