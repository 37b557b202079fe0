#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod guest;
mod level1;

use std::path::{Path, PathBuf};

pub use guest::Guest;
pub use level1::Level1;
pub use strata_lab::{CMDLINE, Config};

/// The program under test: `$STRATA_BIN`, or the workspace's release build.
///
/// # Panics
/// When there is none, with the command that builds it.
pub fn strata() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    let path = std::env::var_os("STRATA_BIN").map_or_else(
        || {
            root.unwrap_or(Path::new(""))
                .join("target/x86_64-unknown-linux-gnu/release/strata")
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: build it with `cargo build --release -p strata`, or name another in \
         STRATA_BIN",
        path.display()
    );
    path
}
