//! The host's programs, and who runs them.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::process::Runner;

/// A program that is run, and its package.
const NEEDS: [(&str, &str); 5] = [
    ("apt-get", "apt"),
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
];

/// What users other than root need too.
const USER_NEEDS: [(&str, &str); 2] = [("newuidmap", "uidmap"), ("fakeroot", "fakeroot")];

/// The keys that Debian's archive is checked with.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The packages that are needed and that this host lacks.
pub fn missing_packages() -> Vec<&'static str> {
    let more: &[_] = if is_root() { &[] } else { &USER_NEEDS };
    let mut packages: Vec<_> = NEEDS
        .iter()
        .chain(more)
        .filter(|(program, _)| !exists(program))
        .map(|(_, package)| *package)
        .collect();
    if !Path::new(KEYRING).exists() {
        packages.push("debian-archive-keyring");
    }
    packages
}

/// Installs what is missing, as root or by sudo. Removes no package.
///
/// # Errors
/// [`Error::Program`] with apt's words.
pub fn install_missing(runner: &Runner) -> Result<()> {
    let packages = missing_packages();
    if packages.is_empty() {
        return Ok(());
    }
    runner.say(&format!("installing {}", packages.join(" ")));
    for args in [
        &["update", "-qq"][..],
        &[
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "--no-remove",
        ],
    ] {
        let mut apt = Command::new(if is_root() { "env" } else { "sudo" });
        apt.args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
            .args(args);
        if args[0] == "install" {
            apt.args(&packages);
        }
        runner.run(&mut apt, Path::new("/"), |_| {})?;
    }
    Ok(())
}

/// Fails with the command that helps if packages are missing.
pub(crate) fn check_packages() -> Result<()> {
    match missing_packages().join(" ") {
        packages if packages.is_empty() => Ok(()),
        packages => Err(Error::MissingPackages { packages }),
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A program that sees files with the owners that it gives them: fakeroot remembers those that a
/// plain user can not give.
pub(crate) fn as_owner(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("fakeroot");
    command.arg("--").arg(program);
    command
}

/// mmdebstrap, in the mode that fits this user. `work` is a directory that it may fill.
///
/// Root's mode mounts /proc, /sys and /dev's parts in the tree: in a mount namespace of its own or
/// not at all, so that no end, however sudden, leaves them to the host, or to a removal of `work`.
pub(crate) fn mmdebstrap(work: &Path) -> Command {
    if !is_root() {
        // Its own user namespace must reach the tree, and not all homes let it in: no `work`.
        let mut command = Command::new("mmdebstrap");
        command.arg("--mode=unshare");
        return command;
    }
    let mut command;
    if can_unshare() {
        command = Command::new("unshare");
        command.args(["--mount", "--", "mmdebstrap"]);
    } else {
        command = Command::new("mmdebstrap");
        command.arg("--skip=chroot/mount");
    }
    command.arg("--mode=root").env("TMPDIR", work);
    command
}

/// Whether this host lets root have a mount namespace; many containers do not.
fn can_unshare() -> bool {
    let mut unshare = Command::new("unshare");
    unshare
        .args(["--mount", "--", "true"])
        .stderr(Stdio::null());
    unshare.status().is_ok_and(|status| status.success())
}

/// The path, with the superuser's programs: they serve others too.
pub(crate) fn path() -> OsString {
    let own = env::var_os("PATH").unwrap_or_default();
    let dirs = env::split_paths(&own).chain(["/usr/sbin".into(), "/sbin".into()]);
    env::join_paths(dirs).unwrap_or(own)
}

fn exists(program: &str) -> bool {
    env::split_paths(&path()).any(|dir| dir.join(program).is_file())
}
