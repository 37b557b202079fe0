use crate::Error;

/// What the machine must do because of a guest's write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Start again.
    Reset,
    /// End.
    PowerOff,
    /// The guest's kernel has panicked and goes no further, unless it was told to reboot.
    Panicked,
    /// The guest's kernel has panicked and goes on in its crash kernel.
    CrashLoaded,
}

/// Registers of 8 bits that follow each other in the port or address space.
///
/// Only the two methods on single registers differ between devices. An access of more bytes is, as
/// on the ISA bus, one access for each byte in ascending order. `data` is one access: of a string
/// instruction, which repeats its access at the same port, each one must be handed in by itself.
pub trait Device {
    /// The number of registers, and so of ports.
    const PORTS: u64;

    /// Reads the register at `offset`, which is below [`PORTS`](Self::PORTS).
    fn read_register(&mut self, offset: u64) -> u8;

    /// Writes the register at `offset`, which is below [`PORTS`](Self::PORTS).
    ///
    /// # Errors
    /// What the device's own documentation says.
    fn write_register(&mut self, offset: u64, value: u8) -> Result<Option<Event>, Error>;

    /// Reads `data` from the registers at `offset` from the device's first port. What is past the
    /// last register reads as all ones.
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        for (byte, step) in data.iter_mut().zip(0..) {
            *byte = match offset.checked_add(step) {
                Some(offset) if offset < Self::PORTS => self.read_register(offset),
                _ => 0xff,
            };
        }
    }

    /// Writes `data` to the registers at `offset` from the device's first port. What is past the
    /// last register is dropped.
    ///
    /// # Errors
    /// As [`write_register`](Self::write_register). The first error, as the first event, ends the
    /// access.
    fn write(&mut self, offset: u64, data: &[u8]) -> Result<Option<Event>, Error> {
        for (byte, step) in data.iter().zip(0..) {
            let Some(offset) = offset
                .checked_add(step)
                .filter(|offset| *offset < Self::PORTS)
            else {
                break;
            };
            if let Some(event) = self.write_register(offset, *byte)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three registers that hold what was written; the last one resets.
    struct Plain([u8; 3]);

    impl Device for Plain {
        const PORTS: u64 = 3;

        fn read_register(&mut self, offset: u64) -> u8 {
            self.0[offset as usize]
        }

        fn write_register(&mut self, offset: u64, value: u8) -> Result<Option<Event>, Error> {
            self.0[offset as usize] = value;
            Ok((offset == 2).then_some(Event::Reset))
        }
    }

    #[test]
    fn a_wide_access_is_one_of_each_byte() {
        let mut device = Plain([0; 3]);
        assert_eq!(device.write(0, &[1, 2]).unwrap(), None);
        assert_eq!(device.write(1, &[3, 4, 5, 6]).unwrap(), Some(Event::Reset));
        let mut data = [0; 4];
        device.read(0, &mut data);
        assert_eq!(data, [1, 3, 4, 0xff]);
    }

    #[test]
    fn what_is_past_the_end_reads_as_ones_and_takes_nothing() {
        let mut device = Plain([7; 3]);
        for offset in [3, 1 << 32, u64::MAX - 1, u64::MAX] {
            let mut data = [0; 8];
            device.read(offset, &mut data);
            assert_eq!(data, [0xff; 8]);
            assert_eq!(device.write(offset, &[9; 8]).unwrap(), None);
        }
        assert_eq!(device.0, [7; 3]);
        device.read(0, &mut []);
        device.write(0, &[]).unwrap();
    }
}
