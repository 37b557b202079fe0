//! Small devices of virtual machines, as the DSDT describes them.

use acpi_tables::{Aml, AmlSink, aml};

/// The panic notifier (QEMU's `docs/specs/pvpanic`): one port, to which a guest's kernel says that
/// it has panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pvpanic {
    /// The port.
    pub port: u16,
}

impl Aml for Pvpanic {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        /// Present, enabled, functioning, and not for a user to see (ACPI 6.5, 6.3.7).
        const WORKS: u8 = 0x0b;
        let io = aml::IO::new(self.port, self.port, 1, 1);
        aml::Device::new(
            "PEVT".into(),
            vec![
                &aml::Name::new("_HID".into(), &"QEMU0001"),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&io])),
                &aml::Name::new("_STA".into(), &WORKS),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The virtual machine generation identifier (Microsoft's specification of 2012): 16 bytes of guest
/// memory that are new whenever the machine goes on from an earlier state, so that a guest's random
/// numbers do not repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationId {
    /// Guest-physical address of the bytes, in a range that is reserved to them; a multiple of 8.
    pub address: u64,
}

impl GenerationId {
    /// The device that a change is notified to.
    pub const PATH: &str = "\\_SB_.VGEN";

    /// The notification's value.
    pub const CHANGED: u8 = 0x80;
}

impl Aml for GenerationId {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let [low, high] = [self.address as u32, (self.address >> 32) as u32];
        aml::Device::new(
            "VGEN".into(),
            vec![
                &aml::Name::new("_HID".into(), &"STRA0001"),
                &aml::Name::new("_CID".into(), &"VM_Gen_Counter"),
                &aml::Name::new("_DDN".into(), &"VM_Gen_Counter"),
                &aml::Name::new("ADDR".into(), &aml::Package::new(vec![&low, &high])),
            ],
        )
        .to_aml_bytes(sink);
    }
}
