//! From packages to the files of an image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::archive::{self, State};
use crate::disk;
use crate::error::{Error, Result};
use crate::host;
use crate::initrd;
use crate::key::Key;
use crate::process::Runner;
use crate::request::{Request, Variant};

/// Makes Debian 12's packages, which still ship /bin and /lib, fit one /usr where mmdebstrap
/// would only unpack them.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

const STANDARD: &str = include_str!("recipe/standard.sh");
const TEST: &str = include_str!("recipe/test.sh");
const TEST_INIT: &str = include_str!("recipe/test-init.sh");

/// Builds disk, kernel and initrd in the empty directory `work`.
pub(crate) fn build(
    request: &Request,
    key: &Key,
    state: &State,
    work: &Path,
    runner: &Runner,
) -> Result<()> {
    let tar = work.join("tree.tar");
    bootstrap(request, state, &tar, work, runner)?;
    let side = work.join("side");
    unpack(
        &tar,
        &side,
        &["./boot/*", "./usr/bin/busybox", "./usr/lib/modules/*"],
        runner,
    )?;
    let boot = side.join("boot");
    let kernel = newest(&boot, "vmlinuz-")?;
    rename(&kernel, &work.join("kernel"))?;
    let initrd = work.join("initrd");
    match request.variant() {
        Variant::Standard => rename(&newest(&boot, "initrd.img-")?, &initrd)?,
        Variant::Test => {
            fs::write(&initrd, initrd::build(&side)?).map_err(Error::file("write", &initrd))?;
        }
    }
    fs::remove_dir_all(&side).map_err(Error::file("remove", &side))?;
    disk::build(
        request,
        key,
        state.epoch,
        &tar,
        &work.join("disk.raw"),
        runner,
    )?;
    fs::remove_file(&tar).map_err(Error::file("remove", &tar))
}

/// Installs the packages into a tree, and packs that.
fn bootstrap(
    request: &Request,
    state: &State,
    tar: &Path,
    work: &Path,
    runner: &Runner,
) -> Result<()> {
    let packages = request.packages();
    runner.say(&format!(
        "fetching Debian {}: {} packages and what they need",
        request.suite().name(),
        packages.len()
    ));
    let mut mmdebstrap = host::mmdebstrap(work);
    mmdebstrap
        .args(["--architectures=amd64", "--skip=check/empty"])
        .arg(format!("--include={}", packages.join(",")))
        .env("PATH", host::path())
        .env("SOURCE_DATE_EPOCH", state.epoch.to_string())
        .env("LC_ALL", "C.UTF-8");
    match request.variant() {
        Variant::Standard => mmdebstrap
            .args(["--variant=minbase", "--dpkgopt=force-unsafe-io"])
            .arg("--customize-hook=rm -f \"$1\"/etc/dpkg/dpkg.cfg.d/99mmdebstrap")
            .arg(format!("--customize-hook={STANDARD}")),
        Variant::Test => mmdebstrap
            .arg("--variant=extract")
            .arg(format!("--hook-dir={MERGED_USR}"))
            .arg(format!("--extract-hook={TEST}"))
            .arg(format!("--extract-hook={}", test_init())),
    };
    mmdebstrap.arg(request.suite().name()).arg(tar);
    for source in archive::sources(request) {
        mmdebstrap.arg(source.line());
    }
    let mut missing = None;
    let told = runner.run(&mut mmdebstrap, work, |line| {
        if let Some(name) = line.strip_prefix("E: Unable to locate package ") {
            missing = Some(name.trim().to_owned());
        }
        if let Some(step) = step(line) {
            runner.say(step);
        }
    });
    match (told, missing) {
        (Err(Error::Program { .. }), Some(name)) => Err(Error::NoPackage { name }),
        (told, _) => told,
    }
}

/// What the user hears of mmdebstrap's messages.
fn step(line: &str) -> Option<&'static str> {
    let steps = [
        ("I: downloading packages", "downloading"),
        ("I: extracting archives", "unpacking"),
        ("I: installing essential packages", "installing the base"),
        ("I: installing remaining packages", "installing the rest"),
        ("I: creating tarball", "packing"),
    ];
    let found = steps.iter().find(|(start, _)| line.starts_with(start));
    found.map(|(_, step)| *step)
}

/// The hook that places the test image's init.
fn test_init() -> String {
    let init = TEST_INIT.replace("@MARKER@", strata_lab::MARKER);
    format!(
        "rm -f \"$1\"/usr/sbin/init \"$1\"/usr/bin/init\n\
         cat > \"$1\"/usr/sbin/init <<'END OF INIT'\n{init}END OF INIT\n\
         chmod 755 \"$1\"/usr/sbin/init"
    )
}

/// Unpacks some members of an archive, with this user as their owner.
fn unpack(tar: &Path, to: &Path, members: &[&str], runner: &Runner) -> Result<()> {
    fs::create_dir(to).map_err(Error::file("create", to))?;
    let mut command = Command::new("tar");
    command
        .args([
            "--extract",
            "--no-same-owner",
            "--no-same-permissions",
            "--wildcards",
        ])
        .arg("--file")
        .arg(tar)
        .arg("--directory")
        .arg(to)
        .args(members);
    match runner.run(&mut command, to, |_| {}) {
        // A member that is not there shows when it is needed.
        Err(Error::Program { output, .. }) if output.contains("Not found in archive") => Ok(()),
        told => told,
    }
}

/// The file in `dir` whose name begins like this, the last by name if there are several.
fn newest(dir: &Path, start: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    let mut found: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(start)
        })
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        Error::file("find a kernel or initrd in", dir)(std::io::ErrorKind::NotFound.into())
    })
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(Error::file("rename", from))
}
