//! Plays a guest that greets, looks at the clock, answers what was typed and powers off when the
//! power button is pressed.

use std::io::{self, Write};

use strata_legacy::layout::POWER_BUTTON;
use strata_legacy::{
    AcpiPower, Device, Error, Event, EventDevice, Rtc, Serial, SystemClock, Trigger,
};

#[derive(Clone)]
struct Interrupt(&'static str);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        writeln!(io::stderr(), "[{}]", self.0)
    }
}

fn main() -> Result<(), Error> {
    let mut serial = Serial::new(
        Interrupt("serial interrupt"),
        Interrupt("room"),
        io::stdout(),
    );
    let mut rtc = Rtc::new(SystemClock);
    let mut events = EventDevice::new(Interrupt("event interrupt"));
    let mut power = AcpiPower::new();

    // Enable the interrupt for received data.
    serial.write(1, &[1])?;
    let mut clock = [0; 3];
    for (index, value) in [4, 2, 0].into_iter().zip(&mut clock) {
        rtc.write(0, &[index])?;
        rtc.read(1, std::slice::from_mut(value));
    }
    let [hour, minute, second] = clock;
    let greeting = format!("It is {hour:02x}:{minute:02x}:{second:02x} UTC. You typed: ");
    print(&mut serial, greeting.as_bytes())?;

    serial.enqueue(b"hello\n")?;
    let mut status = [0];
    while {
        serial.read(5, &mut status);
        status[0] & 1 == 1
    } {
        let mut byte = [0];
        serial.read(0, &mut byte);
        print(&mut serial, &byte)?;
    }

    events.raise(POWER_BUTTON)?;
    let mut pending = [0];
    events.read(0, &mut pending);
    let command = AcpiPower::SLEEP_ENABLE | AcpiPower::S5 << AcpiPower::SLEEP_TYPE_SHIFT;
    if pending[0] & POWER_BUTTON != 0
        && power.write(AcpiPower::SLEEP_CONTROL, &[command])? == Some(Event::PowerOff)
    {
        print(&mut serial, b"Power off.\n")?;
    }
    Ok(())
}

fn print(serial: &mut Serial<Interrupt, io::Stdout>, text: &[u8]) -> Result<(), Error> {
    text.iter()
        .try_for_each(|byte| serial.write(0, &[*byte]).map(drop))
}
