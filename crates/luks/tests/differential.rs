//! Volumes of other programs, and theirs of ours: `qemu-img`, `qemu-io` and `cryptsetup`,
//! each where it is installed.

#![allow(clippy::unwrap_used, clippy::expect_used)] // A failed step is a failed test.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use strata_luks::{Cipher, CipherSpec, CreateOptions, Hash, Mode, Volume};

const PATTERN: u8 = 0x5a;
/// Not at the payload's start, so that sector numbers matter.
const AT: u64 = 3 * 512;

fn installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    text
}

fn qemu_io(path: &Path, command: &str) -> String {
    let image = format!("driver=luks,key-secret=s,file.filename={}", path.display());
    let args = [
        "--object",
        "secret,id=s,data=pass",
        "--image-opts",
        &image,
        "-c",
        command,
    ];
    run("qemu-io", &args)
}

#[test]
fn volumes_made_by_qemu_open_and_decrypt() {
    if !installed("qemu-img") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (cipher, mode, iv, hash) in [
        ("aes-256", "xts", "plain64", "sha256"),
        ("aes-128", "xts", "plain64", "sha512"),
        ("aes-256", "xts", "plain", "sha1"),
        ("aes-256", "cbc", "plain64", "sha256"),
        ("aes-128", "cbc", "essiv,ivgen-hash-alg=sha256", "sha1"),
    ] {
        let path = dir.path().join("volume");
        let options = format!(
            "key-secret=s,iter-time=10,cipher-alg={cipher},cipher-mode={mode},\
                 ivgen-alg={iv},hash-alg={hash}"
        );
        let name = path.to_str().unwrap();
        let secret = "secret,id=s,data=pass";
        let create = [
            "create", "-q", "--object", secret, "-f", "luks", "-o", &options,
        ];
        run("qemu-img", &[&create[..], &[name, "1M"]].concat());
        qemu_io(&path, &format!("write -P {PATTERN} {AT} 1024"));

        let file = File::open(&path).unwrap();
        let volume = Volume::open(&file, b"pass").unwrap();
        let mut data = vec![0; 1024];
        file.read_exact_at(&mut data, volume.payload_offset() + AT)
            .unwrap();
        volume.cipher().decrypt(AT / 512, &mut data).unwrap();
        assert_eq!(data, [PATTERN; 1024], "{options}");
        assert!(Volume::open(&file, b"other").is_err());
    }
}

fn ours(path: &Path, cipher: CipherSpec, hash: Hash) {
    let file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    let options = CreateOptions {
        cipher,
        hash,
        iter_time: Duration::from_millis(1),
    };
    let mut volume = Volume::create(&file, &options, b"first").unwrap();
    volume
        .add_key(&file, Some(6), b"pass", Duration::from_millis(1))
        .unwrap();
    volume.remove_key(&file, 0, false).unwrap();
    let mut data = vec![PATTERN; 1 << 20];
    volume.cipher().encrypt(0, &mut data).unwrap();
    file.write_all_at(&data, volume.payload_offset()).unwrap();
}

const OURS: [(Cipher, Mode, Hash); 4] = [
    (Cipher::Aes256, Mode::XtsPlain64, Hash::Sha256),
    (Cipher::Aes128, Mode::XtsPlain, Hash::Sha1),
    (Cipher::Aes128, Mode::CbcPlain64, Hash::Sha512),
    (Cipher::Aes256, Mode::CbcEssivSha256, Hash::Sha256),
];

#[test]
fn qemu_reads_our_volumes() {
    if !installed("qemu-io") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume");
    for (cipher, mode, hash) in OURS {
        ours(&path, CipherSpec { cipher, mode }, hash);
        let text = qemu_io(&path, &format!("read -P {PATTERN} 0 1M"));
        assert!(!text.contains("verification failed"), "{mode:?}: {text}");
    }
}

#[test]
fn cryptsetup_unlocks_our_volumes() {
    if !installed("cryptsetup") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volume");
    for (cipher, mode, hash) in OURS {
        ours(&path, CipherSpec { cipher, mode }, hash);
        for (phrase, opens) in [("pass", true), ("first", false)] {
            let mut child = Command::new("cryptsetup")
                .args([
                    "open",
                    "--test-passphrase",
                    "--type",
                    "luks1",
                    "--key-file",
                    "-",
                ])
                .arg(&path)
                .stdin(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            child
                .stdin
                .take()
                .unwrap()
                .write_all(phrase.as_bytes())
                .unwrap();
            assert_eq!(child.wait().unwrap().success(), opens, "{mode:?} {phrase}");
        }
    }
}
