//! The bus as the DSDT describes it.

use acpi_tables::{Aml, AmlSink, aml};

use crate::bus::BusLayout;

/// The host bridge (PNP0A08, and PNP0A03 for those who know no PCI Express) with the windows of its
/// bus, and the ECAM window as a resource of the board, without which Linux does not trust an MCFG
/// table (PCI Firmware 3.3, 4.1.2). Goes into the `\_SB` scope.
#[derive(Clone, Copy, Debug)]
pub struct RootBridge<'a>(pub &'a BusLayout);

impl RootBridge<'_> {
    /// The bridge's path.
    pub const PATH: &'static str = "\\_SB_.PCI0";
}

impl Aml for RootBridge<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let BusLayout { mem32, mem64, .. } = self.0;
        let bus = aml::AddressSpace::new_bus_number(0_u16, 0);
        let config = aml::IO::new(0xcf8, 0xcf8, 1, 8);
        let cacheable = aml::AddressSpaceCacheable::NotCacheable;
        // 32-bit windows end below 4 GiB: BusLayout::check.
        let low = aml::AddressSpace::new_memory(
            cacheable,
            true,
            mem32.start as u32,
            (mem32.end - 1) as u32,
            None,
        );
        let high = aml::AddressSpace::new_memory(cacheable, true, mem64.start, mem64.end - 1, None);
        aml::Device::new(
            "PCI0".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08")),
                &aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03")),
                &aml::Name::new("_UID".into(), &aml::ZERO),
                &aml::Name::new("_SEG".into(), &aml::ZERO),
                &aml::Name::new("_BBN".into(), &aml::ZERO),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&bus, &config, &low, &high]),
                ),
            ],
        )
        .to_aml_bytes(sink);
        let ecam = aml::Memory32Fixed::new(true, self.0.ecam as u32, BusLayout::ECAM_SIZE as u32);
        aml::Device::new(
            "ECAM".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02")),
                &aml::Name::new("_UID".into(), &"ECAM"),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&ecam])),
            ],
        )
        .to_aml_bytes(sink);
    }
}
