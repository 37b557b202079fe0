//! What is on the PCI bus.

use serde_json::{Value, json};
use strata_qmp::{Commands, Error, NoArguments};

use super::Control;
use crate::devices::{Function, Region};

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands.with("query-pci", Control::query_pci)
}

impl Control {
    fn query_pci(&mut self, _: NoArguments) -> Result<Value, Error> {
        let functions = self.parts.pci.functions();
        let devices: Vec<_> = functions.iter().map(describe).collect();
        Ok(json!([{ "bus": 0, "devices": devices }]))
    }
}

/// QAPI's `PciDeviceInfo`, by the registers of a header of type 0 (PCI Local Bus 3.0, 6.1).
fn describe(function: &Function) -> Value {
    let header = &function.header;
    let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    json!({
        "bus": 0,
        "slot": function.slot,
        "function": 0,
        "qdev_id": function.id.as_deref().unwrap_or_default(),
        "class_info": { "class": half(0x0a) },
        "id": {
            "vendor": half(0x00),
            "device": half(0x02),
            "subsystem-vendor": half(0x2c),
            "subsystem": half(0x2e),
        },
        "irq_pin": header[0x3d],
        "regions": function.regions.iter().map(region).collect::<Vec<_>>(),
    })
}

/// QAPI's `PciMemoryRegion`. One that is not decoded has the address -1, as in QEMU.
fn region(region: &Region) -> Value {
    json!({
        "bar": region.bar,
        "type": "memory",
        "address": region.address.map_or_else(|| json!(-1), Value::from),
        "size": region.size,
        "prefetch": false,
        "mem_type_64": region.is_64,
    })
}
