//! The bus as ACPI describes it: AML for the DSDT's `\_SB` scope.

use acpi_tables::aml::{self, AddressSpaceCacheable, FieldAccessType, FieldEntry};
use acpi_tables::aml::{FieldLockRule, FieldUpdateRule, OpRegionSpace};
use acpi_tables::{Aml, AmlSink};

use crate::bus::BusLayout;
use crate::hot_plug::HotPlug;

/// `PCI0`: the host bridge with its windows and, with hot-plug, a device for each slot that has it
/// and a Generic Event Device that scans them (ACPI 6.5, 5.6.9 and 6.3).
///
/// ```text
/// Device (PCI0)
///   PCIU, PCID, B0EJ      the registers of HotPlug
///   Device (Snnn)         a slot: _ADR, _SUN, _EJ0 writes the slot's bit to B0EJ
///   Method (PCNT)         notifies the slots: PCIU device check, PCID eject request
/// Device (PCIE)           the event device: _EVT calls PCNT
/// Device (PRES)           the configuration window, reserved
/// ```
#[derive(Clone, Debug)]
pub struct RootBus {
    /// Where the bus is.
    pub layout: BusLayout,
    /// Whether the ports 0xcf8 to 0xcff are there.
    pub ports: bool,
    /// Hot-plug.
    pub hot_plug: Option<HotPlugAml>,
}

/// How hot-plug is wired.
#[derive(Clone, Copy, Debug)]
pub struct HotPlugAml {
    /// The first I/O port of the registers.
    pub port: u16,
    /// The GSI of the event, raised by an edge.
    pub gsi: u32,
    /// A bit for each slot, as in [`HotPlug::new`].
    pub slots: u32,
}

/// Notifications (ACPI 6.5, 5.6.6).
const DEVICE_CHECK: u8 = 1;
const EJECT_REQUEST: u8 = 3;

impl Aml for RootBus {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let resources = self.resources();
        let resources = resources.iter().map(|part| &**part).collect();
        let crs = aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(resources));
        let slots = self.hot_plug.map(SlotsAml);
        let hid = aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0A08"));
        let cid = aml::Name::new("_CID".into(), &aml::EISAName::new("PNP0A03"));
        let uid = aml::Name::new("_UID".into(), &0_u8);
        let mut children: Vec<&dyn Aml> = vec![&hid, &cid, &uid, &crs];
        children.extend(slots.iter().map(|slots| slots as &dyn Aml));
        aml::Device::new("PCI0".into(), children).to_aml_bytes(sink);
        if let Some(hot_plug) = &self.hot_plug {
            event_device(hot_plug.gsi, sink);
        }
        self.reservation(sink);
    }
}

impl RootBus {
    /// What the bridge passes on (6.2.2): bus 0, configuration ports, and the windows for BARs.
    fn resources(&self) -> Vec<Box<dyn Aml>> {
        let BusLayout { mem32, mem64, .. } = &self.layout;
        let mut parts: Vec<Box<dyn Aml>> =
            vec![Box::new(aml::AddressSpace::new_bus_number(0_u16, 0))];
        if self.ports {
            parts.push(Box::new(aml::IO::new(0xcf8, 0xcf8, 1, 8)));
        }
        let cacheable = AddressSpaceCacheable::NotCacheable;
        parts.push(Box::new(aml::AddressSpace::new_memory(
            cacheable,
            true,
            mem32.start as u32,
            (mem32.end - 1) as u32,
            None,
        )));
        let cacheable = AddressSpaceCacheable::NotCacheable;
        parts.push(Box::new(aml::AddressSpace::new_memory(
            cacheable,
            true,
            mem64.start,
            mem64.end - 1,
            None,
        )));
        parts
    }

    /// The configuration window belongs to the platform (PCI Firmware 3.2, 4.1.2): a motherboard
    /// resource.
    fn reservation(&self, sink: &mut dyn AmlSink) {
        let window =
            aml::Memory32Fixed::new(true, self.layout.ecam as u32, BusLayout::ECAM_SIZE as u32);
        aml::Device::new(
            "PRES".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0C02")),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&window])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// What a slot's device is called: `S` and its number.
fn slot_name(slot: u8) -> String {
    format!("S{slot:03}")
}

/// The registers, the slots' devices, and the scan.
struct SlotsAml(HotPlugAml);

impl SlotsAml {
    fn slots(&self) -> impl Iterator<Item = u8> {
        let slots = self.0.slots;
        (1..32).filter(move |slot| slots >> slot & 1 == 1)
    }
}

impl Aml for SlotsAml {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        aml::OpRegion::new(
            "PCIR".into(),
            OpRegionSpace::SystemIO,
            &self.0.port,
            &HotPlug::PORTS,
        )
        .to_aml_bytes(sink);
        let register = |name: &[u8; 4]| FieldEntry::Named(*name, 32);
        aml::Field::new(
            "PCIR".into(),
            FieldAccessType::DWord,
            FieldLockRule::NoLock,
            FieldUpdateRule::WriteAsZeroes,
            vec![register(b"PCIU"), register(b"PCID"), register(b"B0EJ")],
        )
        .to_aml_bytes(sink);
        for slot in self.slots() {
            slot_device(slot, sink);
        }
        let inserted = aml::Local(0);
        let removing = aml::Local(1);
        let read_inserted = aml::Store::new(&inserted, &ReadField("PCIU"));
        let read_removing = aml::Store::new(&removing, &ReadField("PCID"));
        let checks: Vec<NotifyIf> = self
            .slots()
            .flat_map(|slot| {
                [(0, DEVICE_CHECK), (1, EJECT_REQUEST)].map(|(local, value)| NotifyIf {
                    local,
                    slot,
                    value,
                })
            })
            .collect();
        let mut body: Vec<&dyn Aml> = vec![&read_inserted, &read_removing];
        body.extend(checks.iter().map(|check| check as &dyn Aml));
        aml::Method::new("PCNT".into(), 0, true, body).to_aml_bytes(sink);
    }
}

/// A field as a term.
struct ReadField(&'static str);

impl Aml for ReadField {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        aml::Path::new(self.0).to_aml_bytes(sink);
    }
}

fn slot_device(slot: u8, sink: &mut dyn AmlSink) {
    let bit = 1_u32 << slot;
    let address = u32::from(slot) << 16;
    let register = aml::Path::new("B0EJ");
    aml::Device::new(
        slot_name(slot).as_str().into(),
        vec![
            &aml::Name::new("_ADR".into(), &address),
            &aml::Name::new("_SUN".into(), &slot),
            &aml::Method::new(
                "_EJ0".into(),
                1,
                true,
                vec![&aml::Store::new(&register, &bit)],
            ),
        ],
    )
    .to_aml_bytes(sink);
}

/// `If (Local & bit) { Notify (slot, value) }`
struct NotifyIf {
    local: u8,
    slot: u8,
    value: u8,
}

impl Aml for NotifyIf {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let bit = 1_u32 << self.slot;
        let device = aml::Path::new(&slot_name(self.slot));
        aml::If::new(
            &aml::And::new(&aml::ZERO, &aml::Local(self.local), &bit),
            vec![&aml::Notify::new(&device, &self.value)],
        )
        .to_aml_bytes(sink);
    }
}

fn event_device(gsi: u32, sink: &mut dyn AmlSink) {
    let interrupt = aml::Interrupt::new(true, true, false, false, gsi);
    aml::Device::new(
        "PCIE".into(),
        vec![
            &aml::Name::new("_HID".into(), &"ACPI0013"),
            &aml::Name::new("_UID".into(), &"PCI"),
            &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&interrupt])),
            &aml::Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&aml::MethodCall::new("\\_SB_.PCI0.PCNT".into(), vec![])],
            ),
        ],
    )
    .to_aml_bytes(sink);
}
