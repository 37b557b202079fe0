//! Writes the bus's AML as a DSDT to a file, for `iasl -d`.

use std::error::Error;

use acpi_tables::{Aml, aml};
use strata_pci::BusLayout;
use strata_pci::acpi::{HotPlugAml, RootBus};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: aml FILE")?;
    let bus = RootBus {
        layout: BusLayout {
            ecam: 0xe000_0000,
            mem32: 0xd000_0000..0xe000_0000,
            mem64: 1 << 38..1 << 39,
        },
        ports: true,
        hot_plug: Some(HotPlugAml {
            port: 0xae00,
            gsi: 6,
            slots: 0b110,
        }),
    };
    let mut body = Vec::new();
    aml::Scope::new("\\_SB_".into(), vec![&bus]).to_aml_bytes(&mut body);
    let mut table = acpi_tables::sdt::Sdt::new(*b"DSDT", 36, 2, *b"STRATA", *b"STRATAVM", 1);
    table.append_slice(&body);
    std::fs::write(path, table.as_slice())?;
    Ok(())
}
