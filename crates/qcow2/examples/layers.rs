//! Makes an image with an overlay on it, takes a snapshot, and checks what came out.
//!
//! `cargo run -p strata-qcow2 --example layers [DIRECTORY]`

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use strata_qcow2::chain::{self, ChainOptions};
use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{CreateOptions, NewSnapshot, Repair, Storage};

fn main() -> Result<(), Box<dyn Error>> {
    let directory = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let (base, top) = (
        directory.join("layers-base.qcow2"),
        directory.join("layers-top.qcow2"),
    );
    let create = |path: &PathBuf, options: CreateOptions| -> Result<(), Box<dyn Error>> {
        let file = FileOptions {
            write: true,
            create: true,
            direct: false,
        };
        let file: Arc<dyn Storage> = Arc::new(FileStorage::open(path, file)?);
        Ok(options.create(&file)?)
    };
    create(
        &base,
        CreateOptions {
            size: 1 << 30,
            ..CreateOptions::default()
        },
    )?;
    let backing = Some(("layers-base.qcow2".to_string(), "qcow2".to_string()));
    create(
        &top,
        CreateOptions {
            size: 1 << 30,
            backing,
            ..CreateOptions::default()
        },
    )?;

    let options = ChainOptions {
        writable: true,
        ..ChainOptions::default()
    };
    let node = chain::open(&top, &options)?;
    let image = node.as_qcow2().ok_or("not a qcow2 image")?;
    image.write_at(b"before", 4096)?;
    let new = NewSnapshot {
        name: "first".into(),
        ..NewSnapshot::default()
    };
    let id = image.create_snapshot(&new)?;
    image.write_at(b"after!", 4096)?;
    image.apply_snapshot(&id)?;
    let mut text = [0; 6];
    image.read_at(&mut text, 4096)?;
    println!("the disk says: {}", String::from_utf8_lossy(&text));
    let report = image.check(Repair::Nothing, &mut |finding| println!("{}", finding.text))?;
    println!("{report:?}");
    image.close()?;
    std::fs::remove_file(base)?;
    std::fs::remove_file(top)?;
    Ok(())
}
