//! The programs that others read such volumes with. Those that are not installed are left out and
//! named; `blkid` is on every Debian, and is what cloud-init asks.

#![allow(clippy::unwrap_used)] // A failed step is a failed test.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use strata_cloud_init::{MetaData, Seed};

const USER_DATA: &[u8] = b"#cloud-config\nhostname: x\n";
const NETWORK: &[u8] = b"version: 2\nethernets: {}\n";

fn seed(dir: &Path) -> String {
    let seed = Seed {
        user_data: USER_DATA,
        meta_data: MetaData::Hostname("web"),
        network_config: Some(NETWORK),
    };
    let path = dir.join("seed.iso");
    fs::write(&path, seed.build().unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// What a program prints; `None` if it is not installed.
fn run(program: &str, args: &[&str]) -> Option<String> {
    match Command::new(program).args(args).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let errors = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program}: {errors}");
            assert!(
                !errors.to_lowercase().contains("warning"),
                "{program}: {errors}"
            );
            Some(text)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            eprintln!("left out: {program} is not installed");
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn blkid_finds_the_label() {
    let dir = tempfile::tempdir().unwrap();
    let path = seed(dir.path());
    let program = ["/usr/sbin/blkid", "/sbin/blkid"]
        .into_iter()
        .find(|p| Path::new(p).exists());
    let text = run(program.unwrap_or("blkid"), &["-p", "-o", "export", &path]);
    let text = text.expect("blkid is a part of Debian's base");
    assert!(text.lines().any(|line| line == "LABEL=cidata"), "{text}");
    assert!(text.lines().any(|line| line == "TYPE=iso9660"), "{text}");
}

#[test]
fn isoinfo_reads_both_trees() {
    let dir = tempfile::tempdir().unwrap();
    let path = seed(dir.path());
    for names in ["-R", "-J"] {
        let Some(list) = run("isoinfo", &["-f", names, "-i", &path]) else {
            return;
        };
        let mut lines: Vec<_> = list.lines().collect();
        lines.sort_unstable();
        assert_eq!(
            lines,
            ["/meta-data", "/network-config", "/user-data"],
            "{names}"
        );
        let text = run("isoinfo", &[names, "-x", "/user-data", "-i", &path]);
        assert_eq!(text.unwrap().as_bytes(), USER_DATA);
    }
}

#[test]
fn xorriso_has_nothing_to_complain_about() {
    let dir = tempfile::tempdir().unwrap();
    let path = seed(dir.path());
    let out = dir.path().join("out");
    let args = [
        "-osirrox",
        "on",
        "-indev",
        &path,
        "-extract",
        "/",
        out.to_str().unwrap(),
    ];
    if run("xorriso", &[&["-abort_on", "WARNING"], &args[..]].concat()).is_none() {
        return;
    }
    assert_eq!(fs::read(out.join("user-data")).unwrap(), USER_DATA);
    assert_eq!(fs::read(out.join("network-config")).unwrap(), NETWORK);
    let meta_data = fs::read_to_string(out.join("meta-data")).unwrap();
    assert!(meta_data.contains("local-hostname: \"web\""), "{meta_data}");
}
