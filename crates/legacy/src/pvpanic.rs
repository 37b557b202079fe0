use crate::{Device, Error, Event};

const PANICKED: u8 = 1 << 0;
const CRASH_LOADED: u8 = 1 << 1;

/// The pvpanic port (`QEMU0001` in the DSDT), by which a guest's kernel says that it has panicked.
///
/// It has no state.
#[derive(Debug, Default)]
pub struct Pvpanic;

impl Device for Pvpanic {
    const PORTS: u64 = 1;

    fn read_register(&mut self, _offset: u64) -> u8 {
        PANICKED | CRASH_LOADED
    }

    fn write_register(&mut self, _offset: u64, value: u8) -> Result<Option<Event>, Error> {
        Ok(match value {
            _ if value & PANICKED != 0 => Some(Event::Panicked),
            _ if value & CRASH_LOADED != 0 => Some(Event::CrashLoaded),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_events_that_are_offered_are_those_that_work() {
        let mut offered = [0];
        Pvpanic.read(0, &mut offered);
        for bit in 0..8 {
            let event = Pvpanic.write(0, &[1 << bit]).unwrap();
            assert_eq!(event.is_some(), offered[0] >> bit & 1 == 1);
        }
        assert_eq!(Pvpanic.write(0, &[3]).unwrap(), Some(Event::Panicked));
        assert_eq!(Pvpanic.write(0, &[2]).unwrap(), Some(Event::CrashLoaded));
    }
}
