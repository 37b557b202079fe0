//! Maps guest RAM of a given size and backing, writes to it as a device would, and prints where it
//! lies and which pages were written.
//!
//! `cargo run -p strata-memory --example track -- 4G memfd`

use std::error::Error;

use strata_memory::{Backing, GuestRam, MemorySize, Pages, RamConfig, RamLayout};
use vm_memory::{Bytes, GuestAddress};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let size = args
        .next()
        .as_deref()
        .unwrap_or("256M")
        .parse::<MemorySize>()?;
    let backing = match args.next().as_deref().unwrap_or("transparent") {
        "small" => Backing::Anonymous(Pages::Small),
        "transparent" => Backing::Anonymous(Pages::Transparent),
        "huge2m" => Backing::Anonymous(Pages::Huge2M),
        "huge1g" => Backing::Anonymous(Pages::Huge1G),
        "memfd" => Backing::Memfd(Pages::Transparent),
        other => return Err(format!("'{other}' is no backing; try small or memfd").into()),
    };
    let layout = RamLayout {
        low_end: 0xc000_0000,
        high_start: 1 << 32,
    };
    let ram = GuestRam::new(&RamConfig { size, backing }, &layout)?;
    for region in ram.regions() {
        println!(
            "region {}: {} at guest address {:#x}, here {:p}, file {:?}",
            region.slot(),
            MemorySize::new(region.size()),
            region.guest_base().0,
            region.host_addr(),
            region.file(),
        );
    }

    ram.start_dirty()?;
    ram.memory()
        .write_slice(b"across a page's end", GuestAddress(0x8000 - 4))?;
    ram.discard(GuestAddress(0x1_0000), 0x3000)?;
    for range in ram.take_dirty()?.ranges() {
        println!(
            "written: {:#x} bytes at {:#x}",
            range.len, range.guest_base.0
        );
    }
    Ok(())
}
