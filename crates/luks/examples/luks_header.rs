//! Prints the header of a LUKS file; without an argument, of a volume made in memory.

use std::error::Error;
use std::fs::File;
use std::time::Duration;

use strata_luks::{CreateOptions, Header, MemoryHeader, Volume, read_header};

fn main() -> Result<(), Box<dyn Error>> {
    let header = match std::env::args_os().nth(1) {
        Some(path) => read_header(&File::open(path)?)?,
        None => volume_in_memory()?,
    };
    println!("uuid:           {}", header.uuid);
    println!(
        "cipher:         {} {}",
        header.cipher.cipher.name(),
        header.cipher.mode.name()
    );
    println!("hash:           {}", header.hash.name());
    println!("payload offset: {} bytes", header.payload_offset());
    for (number, slot) in header
        .slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| slot.active)
    {
        println!("slot {number}:         {} iterations", slot.iterations);
    }
    Ok(())
}

fn volume_in_memory() -> strata_luks::Result<Header> {
    let options = CreateOptions {
        iter_time: Duration::from_millis(10),
        ..Default::default()
    };
    let volume = Volume::create(&MemoryHeader::default(), &options, b"secret")?;
    Ok(volume.header().clone())
}
