//! Opens a disk, read-only, and says what it stands on.
//!
//! `cargo run -p strata-block --example chain -- IMAGE raw|qcow2|probe [backing]`

use strata_block::{Disk, DiskOptions, Format};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [path, format, rest @ ..] = &words[..] else {
        return Err("which image, and of what format?".into());
    };
    let format = match format.as_str() {
        "raw" => Format::Raw,
        "qcow2" => Format::Qcow2,
        "probe" => Format::Probe,
        other => return Err(format!("the format {other} is not known").into()),
    };
    let disk = Disk::open(&DiskOptions {
        read_only: true,
        backing: rest.iter().any(|word| word == "backing"),
        ..DiskOptions::new(path, format)
    })?;
    println!("{path}: {} bytes", disk.size());
    for (depth, node) in disk.nodes().enumerate() {
        let kind = match node.as_qcow2() {
            Some(image) => format!("qcow2, clusters of {}", image.geometry().cluster_size()),
            None => "raw".into(),
        };
        println!("{depth}: {kind}, {} bytes", node.size());
    }
    Ok(())
}
