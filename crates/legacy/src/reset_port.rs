use crate::{Device, Error, Event};

/// The command that pulses the processor's reset line.
const PULSE_RESET: u8 = 0xfe;

/// What reads as the keyboard controller's status: every bit but "input buffer full".
///
/// - "Output buffer full" never clears, so Linux' i8042 driver gives up after 16 bytes and finds no
///   controller. A status of 0 would cost it 10,000 reads of waiting for an answer.
/// - "Input buffer full" is clear, because Linux waits for that before it writes the reset command,
///   for 65,536 reads at most.
const STATUS: u8 = 0xfd;

/// The command port of a keyboard controller that can do nothing but reset the machine.
///
/// Linux uses it when ACPI has no reset register, or with `reboot=k`. Port 0x60 stays empty. The
/// device has no state.
#[derive(Debug, Default)]
pub struct ResetPort;

impl Device for ResetPort {
    const PORTS: u64 = 1;

    fn read_register(&mut self, _offset: u64) -> u8 {
        STATUS
    }

    fn write_register(&mut self, _offset: u64, value: u8) -> Result<Option<Event>, Error> {
        Ok((value == PULSE_RESET).then_some(Event::Reset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pulse_resets_and_a_driver_finds_nothing() {
        for value in 0..=u8::MAX {
            let event = ResetPort.write(0, &[value]).unwrap();
            assert_eq!(event, (value == 0xfe).then_some(Event::Reset));
        }
        let mut status = [0];
        ResetPort.read(0, &mut status);
        assert_eq!(status[0] & 0b11, 0b01);
    }
}
