//! Debian packages: what is missing, installing it without removing anything, and unpacking
//! kernels that are never installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command::{checked, exists};
use crate::error::{Error, Result};
use crate::kernel;
use crate::recipe::Kernel;

/// A program that the lab runs on the host, and its package.
const NEEDS: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("mke2fs", "e2fsprogs"),
    ("lz4", "lz4"),
    ("zstd", "zstd"),
    ("xz", "xz-utils"),
    ("stty", "coreutils"),
];

/// The static busybox that level 1 and the guests are made of.
pub(crate) const BUSYBOX: &str = "/bin/busybox";

/// The packages that the lab needs and this host lacks.
pub fn missing_packages() -> Vec<&'static str> {
    let mut packages: Vec<_> = NEEDS
        .into_iter()
        .filter(|(program, _)| !exists(program))
        .map(|(_, p)| p)
        .collect();
    if !Path::new("/usr/share/seabios/bios-256k.bin").exists() {
        packages.push("seabios");
    }
    // A busybox that names a dynamic loader, at its start, comes from the package `busybox`.
    let dynamic = |bytes: Vec<u8>| bytes.windows(9).take(4096).any(|w| w == b"ld-linux-");
    if fs::read(BUSYBOX).map_or(true, dynamic) {
        packages.push("busybox-static");
    }
    packages
}

/// Fails with the command that helps if packages are missing.
pub(crate) fn check_packages() -> Result<()> {
    match missing_packages().join(" ") {
        packages if packages.is_empty() => Ok(()),
        packages => Err(Error::MissingPackages { packages }),
    }
}

/// Installs the missing packages. Never removes one: where the plain installation would, it takes
/// them from the distribution's backports. `scratch` is a directory that it may fill.
pub fn install_missing(scratch: &Path, progress: fn(&str)) -> Result<()> {
    let packages = missing_packages();
    if packages.is_empty() {
        return Ok(());
    }
    progress(&format!("installing {}", packages.join(" ")));
    let mut options = Vec::new();
    let mut removed = removals(&options, &packages);
    if removed.is_err() {
        checked(&mut apt_get(&["update"]))?;
        removed = removals(&options, &packages);
    }
    if !removed?.is_empty() {
        options = backports(scratch, progress)?;
    }
    let still = removals(&options, &packages)?;
    let done = if still.is_empty() {
        let mut install = apt_get(&["install", "-y", "--no-install-recommends", "--no-remove"]);
        checked(install.args(&options).args(&packages)).map(drop)
    } else {
        Err(Error::WouldRemove {
            packages: packages.join(" "),
            removed: still.join(" "),
        })
    };
    let _ = fs::remove_dir_all(scratch);
    done
}

/// What installing would remove.
fn removals(options: &[String], packages: &[&str]) -> Result<Vec<String>> {
    let mut simulate = Command::new("apt-get");
    simulate
        .args(["install", "-s", "--no-install-recommends"])
        .args(options)
        .args(packages);
    Ok(removed(&checked(&mut simulate)?))
}

fn removed(simulation: &str) -> Vec<String> {
    let names = simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Remv "));
    names
        .filter_map(|rest| rest.split_whitespace().next())
        .map(String::from)
        .collect()
}

fn apt_get(args: &[&str]) -> Command {
    let root = checked(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let mut command = Command::new(if root { "env" } else { "sudo" });
    command
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get"])
        .args(args);
    command
}

/// The options that let apt see the backports too, through sources and lists of its own.
fn backports(scratch: &Path, progress: fn(&str)) -> Result<Vec<String>> {
    let mut targets = Command::new("apt-get");
    let targets = checked(targets.args([
        "indextargets",
        "--format",
        "$(SITE) $(CODENAME) $(RELEASE) $(COMPONENT)",
        "Created-By: Packages",
    ]))?;
    let os = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = os
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let codename = codename.unwrap_or_default();
    let site = main_archive(&targets, codename).ok_or_else(|| {
        Error::Usage(format!(
            "apt knows no archive of Debian {codename:?}: configure one"
        ))
    })?;
    let suite = format!("{codename}-backports");
    progress(&format!(
        "the plain packages would remove others: trying {suite} of {site}"
    ));
    let (list, lists) = (scratch.join("sources.list"), scratch.join("lists"));
    let partial = lists.join("partial");
    fs::create_dir_all(&partial).map_err(Error::file("create", &partial))?;
    let mut sources = fs::read_to_string("/etc/apt/sources.list").unwrap_or_default();
    let keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
    sources += &format!("\ndeb [signed-by={keyring}] {site} {suite} main\n");
    fs::write(&list, sources).map_err(Error::file("write", &list))?;
    let mut options: Vec<String> = [
        format!("Dir::Etc::sourcelist={}", list.display()),
        format!("Dir::State::lists={}", lists.display()),
        "Dir::Cache::pkgcache=".into(),
        "Dir::Cache::srcpkgcache=".into(),
    ]
    .into_iter()
    .flat_map(|option| ["-o".to_string(), option])
    .collect();
    checked(apt_get(&["update"]).args(&options))?;
    options.extend(["-t".to_string(), suite]);
    Ok(options)
}

/// The address of the first archive that carries the release itself.
fn main_archive<'a>(targets: &'a str, codename: &str) -> Option<&'a str> {
    let rest = format!(" {codename} {codename} main");
    targets.lines().find_map(|line| line.strip_suffix(&rest))
}

/// Finds the newest packaged kernel of a series, and unpacks it below `kernels` unless it is there.
pub(crate) fn fetch_kernel(
    series: &'static str,
    kernels: &Path,
    progress: fn(&str),
) -> Result<Kernel> {
    let package = newest_package(series)?;
    let release = package
        .trim_start_matches("linux-image-")
        .trim_end_matches("-unsigned");
    let dir = kernels.join(release);
    let kernel = Kernel {
        series,
        release: release.to_string(),
        dir: dir.clone(),
    };
    if dir.exists() {
        return Ok(kernel);
    }
    progress(&format!("fetching {package}"));
    let work = kernels.join(format!("{release}.partial"));
    let _ = fs::remove_dir_all(&work);
    fs::create_dir_all(&work).map_err(Error::file("create", &work))?;
    let download = |package: &str| {
        checked(
            Command::new("apt-get")
                .args(["download", package])
                .current_dir(&work),
        )
    };
    download(&package).or_else(|_| download(&format!("{package}-unsigned")))?;
    let deb = only_file(&work)?;
    checked(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(&work))?;
    let rename =
        |from: PathBuf, to: PathBuf| fs::rename(&from, &to).map_err(Error::file("rename", &from));
    let unpacked = work.join("image");
    fs::create_dir(&unpacked).map_err(Error::file("create", &unpacked))?;
    rename(
        work.join("boot").join(format!("vmlinuz-{release}")),
        unpacked.join("bzImage"),
    )?;
    let lib = ["lib/modules", "usr/lib/modules"].map(|lib| work.join(lib).join(release));
    let lib = lib.iter().find(|lib| lib.exists()).unwrap_or(&lib[0]);
    rename(lib.clone(), unpacked.join("modules"))?;
    kernel::unpack(&unpacked.join("bzImage"), &unpacked.join("vmlinux"))?;
    rename(unpacked, dir)?;
    fs::remove_dir_all(&work).map_err(Error::file("remove", &work))?;
    Ok(kernel)
}

fn only_file(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).map_err(Error::file("list", dir))?;
    match entries.next() {
        Some(entry) => Ok(entry.map_err(Error::file("list", dir))?.path()),
        None => Err(Error::file("find a package in", dir)(
            std::io::ErrorKind::NotFound.into(),
        )),
    }
}

/// The versioned package that a meta package of the series depends on.
fn newest_package(series: &str) -> Result<String> {
    let metas = [
        format!("linux-image-{series}-cloud-amd64"),
        "linux-image-cloud-amd64".into(),
    ];
    for meta in &metas {
        // A meta package that does not exist is not an error here.
        let depends =
            checked(Command::new("apt-cache").args(["depends", meta])).unwrap_or_default();
        if let Some(package) = dependency(&depends, series) {
            return Ok(package.to_string());
        }
    }
    Err(Error::NoKernel {
        series: series.to_string(),
        meta: metas.join(" and "),
    })
}

fn dependency<'a>(depends: &'a str, series: &str) -> Option<&'a str> {
    let prefix = format!("linux-image-{series}.");
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removals_are_seen() {
        let text = "Inst a (1)\nRemv qemu-utils [1:10.0.2]\nConf a (1)\nRemv b [2] [c ]\n";
        assert_eq!(removed(text), ["qemu-utils", "b"]);
        assert!(removed("Inst Remv (1)\n").is_empty());
    }

    #[test]
    fn the_archive_is_the_release_itself() {
        let targets = "http://sec/debian-security bookworm-security bookworm-security main\n\
                       http://a/other nodistro nodistro main\n\
                       http://d/debian bookworm-updates bookworm-updates main\n\
                       http://d/debian bookworm bookworm contrib\n\
                       http://d/debian bookworm bookworm main\n";
        assert_eq!(main_archive(targets, "bookworm"), Some("http://d/debian"));
        assert_eq!(main_archive(targets, "trixie"), None);
    }

    #[test]
    fn a_series_takes_no_other_series() {
        let depends = "linux-image-cloud-amd64\n  Depends: linux-image-6.12.1-cloud-amd64\n";
        assert_eq!(dependency(depends, "6.1"), None);
        assert_eq!(
            dependency(depends, "6.12"),
            Some("linux-image-6.12.1-cloud-amd64")
        );
    }
}
