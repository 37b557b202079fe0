//! Compiles the level-1 agent into one static program that the library embeds, and hashes the
//! sources that decide what level 1 is, so that a saved level 1 is never used with an agent or a recipe of another version.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

/// The sources that decide what a level 1 is.
const RECIPE: [&str; 4] = ["src/agent", "src/protocol.rs", "src/recipe", "src/cpio.rs"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for part in RECIPE {
        println!("cargo::rerun-if-changed={part}");
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    // The agent uses nothing but std, so the compiler alone builds it. Cargo would not: a library
    // can not depend on another package's program.
    let status = Command::new(env::var("RUSTC")?)
        .args([
            "--crate-name",
            "lab_agent",
            "--edition",
            "2024",
            "--crate-type",
            "bin",
        ])
        .args([
            "-C",
            "opt-level=2",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "relocation-model=static",
        ])
        .args(["--target", &env::var("TARGET")?])
        .arg("-o")
        .arg(out.join("lab-agent"))
        .arg("src/agent/main.rs")
        .status()?;
    if !status.success() {
        return Err("the level-1 agent does not compile".into());
    }
    let mut hasher = DefaultHasher::new();
    for part in RECIPE {
        hash_tree(Path::new(part), &mut hasher)?;
    }
    println!("cargo::rustc-env=LAB_RECIPE={:016x}", hasher.finish());
    Ok(())
}

fn hash_tree(path: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    if path.is_dir() {
        let entries = fs::read_dir(path)?.map(|entry| Ok(entry?.path()));
        let mut paths = entries.collect::<io::Result<Vec<_>>>()?;
        paths.sort();
        return paths.iter().try_for_each(|path| hash_tree(path, hasher));
    }
    hasher.write(path.as_os_str().as_encoded_bytes());
    hasher.write(&fs::read(path)?);
    Ok(())
}
