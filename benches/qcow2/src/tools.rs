//! Whole-image work beside qemu-img.

use std::path::Path;

use strata_qcow2::{NewSnapshot, Repair, chain, commit as commit_into};

use crate::measure::{children, here, report, run};
use crate::peers;

const ROUNDS: usize = 5;

fn filled(path: &Path, cluster_size: &str) {
    let name = path.to_str().expect("a name");
    let options = format!("cluster_size={cluster_size},preallocation=metadata");
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-o", &options, name, "4G"]);
}

/// A check of 4 GiB in clusters of 4 KiB.
pub fn check(dir: &Path) {
    let path = dir.join("image");
    filled(&path, "4k");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(here(|| {
            let image = peers::ours(&path, false);
            assert!(image.check(Repair::Nothing, &mut |_| {}).expect("a check").is_clean());
        }));
        theirs.push(children(|| run("qemu-img", &["check", "-q", path.to_str().expect("a name")])));
    }
    report("check 4 GiB of 4 KiB clusters", "strata", &ours, 1);
    report("check 4 GiB of 4 KiB clusters", "qemu-img", &theirs, 1);
    std::fs::remove_file(&path).expect("an image to remove");
}

/// Create, apply and delete a snapshot of a full disk of 4 GiB.
pub fn snapshots(dir: &Path) {
    let path = dir.join("image");
    filled(&path, "64k");
    let name = path.to_str().expect("a name");
    let mut costs: Vec<(&str, &str, Vec<_>)> = Vec::new();
    let mut keep = |what, who, cost| match costs.iter_mut().find(|c| c.0 == what && c.1 == who) {
        Some(found) => found.2.push(cost),
        None => costs.push((what, who, vec![cost])),
    };
    for _ in 0..ROUNDS {
        let on_ours = |work: &dyn Fn(&strata_qcow2::Image)| {
            here(|| {
                let image = peers::ours(&path, false);
                work(&image);
                image.close().expect("closing");
            })
        };
        let new = NewSnapshot { name: "s".into(), ..NewSnapshot::default() };
        let create = on_ours(&|image| drop(image.create_snapshot(&new).expect("a snapshot")));
        keep("snapshot create", "strata", create);
        keep("snapshot apply", "strata", on_ours(&|i| i.apply_snapshot("s").expect("applying")));
        keep("snapshot delete", "strata", on_ours(&|i| i.delete_snapshot("s").expect("deleting")));
        for (what, flag) in
            [("snapshot create", "-c"), ("snapshot apply", "-a"), ("snapshot delete", "-d")]
        {
            keep(what, "qemu-img", children(|| run("qemu-img", &["snapshot", flag, "s", name])));
        }
    }
    for (what, who, list) in costs {
        report(what, who, &list, 1);
    }
    std::fs::remove_file(&path).expect("an image to remove");
}

/// Commit of 512 MiB into a base.
pub fn commit(dir: &Path) {
    let (base, top) = (dir.join("base"), dir.join("top"));
    let names = [base.to_str().expect("a name"), top.to_str().expect("a name")];
    let make = || {
        run("qemu-img", &["create", "-q", "-f", "qcow2", names[0], "1G"]);
        let create = ["create", "-q", "-f", "qcow2", "-b", names[0], "-F", "qcow2", names[1]];
        run("qemu-img", &create);
        run("qemu-io", &["-c", "write -q -P 7 0 512M", names[1]]);
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        make();
        ours.push(here(|| {
            let options = chain::ChainOptions { backing: false, ..Default::default() };
            let target = chain::ChainOptions { writable: true, ..Default::default() };
            let target = chain::open(&base, &target).expect("a base");
            let options = chain::ChainOptions {
                writable: true,
                image: strata_qcow2::OpenOptions {
                    backing: strata_qcow2::Backing::Node(target.clone()),
                    ..options.image.clone()
                },
                ..options
            };
            let node = chain::open(&top, &options).expect("a top");
            commit_into(&node, &target, &mut |_, _| true).expect("a commit");
            node.as_qcow2().expect("an image").make_empty().expect("emptying");
        }));
        make();
        theirs.push(children(|| run("qemu-img", &["commit", "-q", names[1]])));
    }
    report("commit 512 MiB", "strata", &ours, 1);
    report("commit 512 MiB", "qemu-img", &theirs, 1);
}
