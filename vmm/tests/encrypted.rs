//! Encrypted disks: keys by name, on the command line, in files and over the control socket.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::Command;

use common::{Guest, Payload, finish, start, strata};
use serde_json::json;

const PASSPHRASE: &str = "correct horse";

/// Makes an image (for some seconds: qemu-img measures how fast the host is) that opens with [`PASSPHRASE`], in the directory of `guest`.
fn image(guest: &Guest, name: &str, format: &str) -> String {
    let path = guest.path(name);
    let prefix = if format == "qcow2" { "encrypt." } else { "" };
    let encrypt = if format == "qcow2" {
        "encrypt.format=luks,"
    } else {
        ""
    };
    let options = format!("{encrypt}{prefix}key-secret=s,{prefix}iter-time=10");
    let secret = format!("secret,id=s,data={PASSPHRASE}");
    let mut create = Command::new("qemu-img");
    create.args([
        "create", "-q", "--object", &secret, "-f", format, "-o", &options,
    ]);
    let output = create.arg(&path).arg("1M").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    text(&path)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The passphrase's file.
fn passphrase(guest: &Guest) -> String {
    let path = guest.path("passphrase");
    std::fs::write(&path, PASSPHRASE).unwrap();
    text(&path)
}

#[test]
fn a_machine_runs_on_encrypted_disks_with_their_keys_alone() {
    let guest = Guest::new(Payload::PowerOff);
    let (a, b) = (image(&guest, "a", "qcow2"), image(&guest, "b", "luks"));
    let file = passphrase(&guest);
    let output = finish(guest.run(&[
        "--secret",
        &format!("id=key,file={file}"),
        "--disk",
        &format!("{a},format=qcow2,encrypt.format=luks,encrypt.key-secret=key"),
        "--disk",
        &format!("{b},format=luks,key-secret=key,cache=direct"),
    ]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // In a file, by names that start at the file.
    let config = guest.path("vm.toml");
    std::fs::write(
        &config,
        "secret = ['id=key,file=passphrase']\n\
         [[disk]]\npath = 'a'\nformat = 'qcow2'\nencrypt.key-secret = 'key'\n\
         [[disk]]\npath = 'b'\nformat = 'luks'\nkey-secret = 'key'\n",
    )
    .unwrap();
    let output = finish(guest.run(&["--config", &text(&config)]));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    keys_that_do_not_fit(&guest, &a, &b, &file);
}

fn keys_that_do_not_fit(guest: &Guest, a: &str, b: &str, file: &str) {
    let plain = text(&guest.path("plain"));
    let create = ["create", "-q", "-f", "qcow2", &plain, "1M"];
    assert!(
        Command::new("qemu-img")
            .args(create)
            .status()
            .unwrap()
            .success()
    );
    let (right, wrong) = (
        format!("id=key,file={file}"),
        "id=wrong,data=wrong".to_owned(),
    );
    let missing = "id=x,file=/nonexistent/s".to_owned();
    let twice = ["id=key,data=x", "id=key,data=y"].map(str::to_owned);
    for (secrets, disk, words) in [
        (
            &[][..],
            format!("{a},format=qcow2"),
            &["is encrypted", "--secret"][..],
        ),
        (
            &[],
            format!("{b},format=probe"),
            &["is encrypted", "--secret"],
        ),
        (
            &[],
            format!("{a},format=qcow2,encrypt.key-secret=key"),
            &["no secret key", "--secret id=key"],
        ),
        (
            std::slice::from_ref(&wrong),
            format!("{a},format=qcow2,encrypt.key-secret=wrong"),
            &["a can not be used", "passphrase"],
        ),
        (
            std::slice::from_ref(&wrong),
            format!("{b},format=luks,key-secret=wrong"),
            &["b can not be used", "passphrase"],
        ),
        (
            std::slice::from_ref(&right),
            format!("{plain},format=qcow2,encrypt.key-secret=key"),
            &["plain is not encrypted", "leave out"],
        ),
        (
            std::slice::from_ref(&right),
            format!("{plain},format=luks,key-secret=key"),
            &["plain", "not in LUKS format"],
        ),
        (
            std::slice::from_ref(&right),
            format!("{a},key-secret=key"),
            &["format=luks"],
        ),
        (
            std::slice::from_ref(&missing),
            plain.clone(),
            &["/nonexistent/s", "name a file"],
        ),
        (&twice, plain.clone(), &["two secrets have the id key"]),
    ] {
        let mut run = guest.run(&["--disk", &disk]);
        for secret in secrets {
            run.args(["--secret", secret]);
        }
        let output = finish(run);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{disk}: {said}");
        for word in words {
            assert!(said.contains(word), "{disk}: no {word:?} in: {said}");
        }
        assert!(!said.contains(PASSPHRASE), "{said}");
    }
}

#[test]
fn a_printed_configuration_has_no_passphrase() {
    let output = finish(strata(&[
        "run",
        "--print-config",
        "--kernel=/k",
        "--secret=id=said,data=correct horse",
        "--secret=id=kept,file=/secrets/kept",
        "--disk=/a,format=qcow2,encrypt.key-secret=said",
    ]));
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        printed.contains("\"said\"") && printed.contains("/secrets/kept"),
        "{printed}"
    );
    assert!(!printed.contains(PASSPHRASE), "{printed}");
}

#[test]
fn encrypted_disks_come_over_the_control_socket() {
    let guest = Guest::new(Payload::Eject);
    let (a, b) = (image(&guest, "a", "qcow2"), image(&guest, "b", "luks"));
    let file = passphrase(&guest);
    let (machine, mut client) = start(&guest, &["--secret", &format!("id=first,file={file}")]);
    let later = json!({ "qom-type": "secret", "id": "later", "data": PASSPHRASE });
    client.run("object-add", later.clone());
    assert!(client.refused("object-add", later).contains("later"));
    for (object, needle) in [
        (json!({ "qom-type": "rng-random", "id": "x" }), "rng-random"),
        (json!({ "qom-type": "secret", "id": "x" }), "file=PATH"),
        (
            json!({ "qom-type": "secret", "id": "../x", "data": "x" }),
            "letter",
        ),
    ] {
        let said = client.refused("object-add", object);
        assert!(said.contains(needle), "{said}");
    }
    let file = |path: &str| json!({ "driver": "file", "filename": path });
    let encrypt = |id: &str| json!({ "format": "luks", "key-secret": id });
    for (node, needle) in [
        (
            json!({ "node-name": "n", "driver": "qcow2", "file": file(&a) }),
            "is encrypted",
        ),
        (
            json!({ "node-name": "n", "driver": "qcow2", "file": file(&a), "encrypt": encrypt("x") }),
            "no secret x",
        ),
        (
            json!({ "node-name": "n", "driver": "luks", "file": file(&b) }),
            "needs key-secret",
        ),
        (
            json!({ "node-name": "n", "driver": "raw", "file": file(&b), "key-secret": "later" }),
            "format=luks",
        ),
    ] {
        let said = client.refused("blockdev-add", node);
        assert!(said.contains(needle), "{said}");
    }
    client.run(
        "blockdev-add",
        json!({ "node-name": "a", "driver": "qcow2", "file": file(&a), "encrypt": encrypt("first") }),
    );
    client.run(
        "blockdev-add",
        json!({ "node-name": "b", "driver": "luks", "file": file(&b), "key-secret": "later" }),
    );
    client.run(
        "device_add",
        json!({ "driver": "virtio-blk-pci", "id": "da", "drive": "a" }),
    );
    client.run(
        "device_add",
        json!({ "driver": "virtio-blk-pci", "id": "db", "drive": "b" }),
    );
    let blocks = client.run("query-block", json!({}));
    for (block, format) in [(&blocks[0], "qcow2"), (&blocks[1], "luks")] {
        let medium = &block["inserted"];
        assert_eq!(medium["encrypted"], true, "{medium}");
        assert_eq!(medium["drv"], format);
        assert_eq!(medium["image"]["virtual-size"], 1 << 20);
    }
    client.run("object-del", json!({ "id": "later" }));
    assert!(
        client
            .refused("object-del", json!({ "id": "later" }))
            .contains("later")
    );
    client.run("quit", json!({}));
    assert_eq!(machine.code(), Some(0));
}
