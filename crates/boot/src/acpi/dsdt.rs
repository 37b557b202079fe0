//! The DSDT: soft-off, serial ports, the RTC, the power button and the events.

use acpi_tables::{Aml, AmlSink, aml};

use super::platform::{Event, Platform, PowerRegisters, Serial};
use super::table;

const POWER_BUTTON: &str = "\\_SB_.PWRB";
/// ACPI 6.5, table 5.176: the power button was pressed.
const PRESSED: u8 = 0x80;

pub(super) fn dsdt(platform: &Platform, devices: &[&dyn Aml]) -> Vec<u8> {
    const REVISION: u8 = 6;
    let mut body = Vec::new();
    aml::Name::new(
        "\\_S5_".into(),
        &aml::Package::new(vec![&PowerRegisters::S5]),
    )
    .to_aml_bytes(&mut body);
    let serial: Vec<SerialPort> = (0_u8..)
        .zip(&platform.serial)
        .map(|(index, &port)| SerialPort { index, port })
        .collect();
    let events = events(platform);
    let rtc = platform.cmos_rtc.then_some(CmosRtc);
    let button = platform.power_button.map(|_| PowerButton);
    let event_device = (!events.is_empty()).then_some(EventDevice(&events));

    let mut children: Vec<&dyn Aml> = serial.iter().map(|s| s as &dyn Aml).collect();
    children.extend(rtc.iter().map(|d| d as &dyn Aml));
    children.extend(button.iter().map(|d| d as &dyn Aml));
    children.extend_from_slice(devices);
    children.extend(event_device.iter().map(|d| d as &dyn Aml));
    aml::Scope::new("\\_SB_".into(), children).to_aml_bytes(&mut body);
    table(b"DSDT", REVISION, &body)
}

/// All events, that of the power button first.
fn events(platform: &Platform) -> Vec<Event> {
    let button = platform.power_button.map(|gsi| Event {
        gsi,
        device: POWER_BUTTON.to_owned(),
        value: PRESSED,
    });
    button
        .into_iter()
        .chain(platform.events.iter().cloned())
        .collect()
}

/// An edge-triggered, active-high interrupt of one device.
fn edge(gsi: u32) -> aml::Interrupt {
    aml::Interrupt::new(true, true, false, false, gsi)
}

/// A 16550 (PNP0501).
struct SerialPort {
    index: u8,
    port: Serial,
}

impl Aml for SerialPort {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        const PORTS: u8 = 8;
        let name = format!("COM{}", self.index + 1);
        let io = aml::IO::new(self.port.port, self.port.port, 1, PORTS);
        aml::Device::new(
            name.as_str().into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0501")),
                &aml::Name::new("_UID".into(), &self.index),
                &aml::Name::new(
                    "_CRS".into(),
                    &aml::ResourceTemplate::new(vec![&io, &edge(self.port.gsi)]),
                ),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The CMOS real-time clock (PNP0B00). It has no interrupt, so alarms are for others.
struct CmosRtc;

impl Aml for CmosRtc {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let io = aml::IO::new(0x70, 0x70, 1, 2);
        aml::Device::new(
            "RTC_".into(),
            vec![
                &aml::Name::new("_HID".into(), &aml::EISAName::new("PNP0B00")),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(vec![&io])),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// The power button as a device (PNP0C0C).
struct PowerButton;

impl Aml for PowerButton {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let id = aml::EISAName::new("PNP0C0C");
        aml::Device::new("PWRB".into(), vec![&aml::Name::new("_HID".into(), &id)])
            .to_aml_bytes(sink);
    }
}

/// The Generic Event Device (ACPI0013; ACPI 6.5, 5.6.9): `_EVT` is called with the GSI that was
/// raised.
struct EventDevice<'a>(&'a [Event]);

impl Aml for EventDevice<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let interrupts: Vec<aml::Interrupt> = self.0.iter().map(|e| edge(e.gsi)).collect();
        let interrupts = interrupts.iter().map(|i| i as &dyn Aml).collect();
        let branches: Vec<Branch<'_>> = self.0.iter().map(Branch).collect();
        let branches = branches.iter().map(|b| b as &dyn Aml).collect();
        aml::Device::new(
            "GED_".into(),
            vec![
                &aml::Name::new("_HID".into(), &"ACPI0013"),
                &aml::Name::new("_CRS".into(), &aml::ResourceTemplate::new(interrupts)),
                &aml::Method::new("_EVT".into(), 1, true, branches),
            ],
        )
        .to_aml_bytes(sink);
    }
}

/// `If (Arg0 == gsi) { Notify (device, value) }`
struct Branch<'a>(&'a Event);

impl Aml for Branch<'_> {
    fn to_aml_bytes(&self, sink: &mut dyn AmlSink) {
        let device = aml::Path::new(&self.0.device);
        aml::If::new(
            &aml::Equal::new(&aml::Arg(0), &self.0.gsi),
            vec![&aml::Notify::new(&device, &self.0.value)],
        )
        .to_aml_bytes(sink);
    }
}
