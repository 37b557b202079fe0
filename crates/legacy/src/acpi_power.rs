use crate::{Device, Error, Event};

const NAME: &str = "ACPI power registers";

/// The bits of SLP_TYPx in the sleep control register (ACPI 6.5 §4.8.3.7).
const SLEEP_TYPE_MASK: u8 = 0b111 << AcpiPower::SLEEP_TYPE_SHIFT;

/// The sleep control, sleep status and reset registers of hardware-reduced ACPI.
///
/// The FADT names [`SLEEP_CONTROL`](Self::SLEEP_CONTROL), [`SLEEP_STATUS`](Self::SLEEP_STATUS) and
/// [`RESET`](Self::RESET) with [`RESET_VALUE`](Self::RESET_VALUE), and the DSDT's `\_S5` has
/// [`S5`](Self::S5). Of the sleep states there is only this one.
#[derive(Debug, Default)]
pub struct AcpiPower {
    sleep_type: u8,
}

/// The state of an [`AcpiPower`]. It is untrusted: [`AcpiPower::from_state`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct AcpiPowerState {
    /// The sleep type last written, 0 to 7.
    pub sleep_type: u8,
}

impl AcpiPowerState {
    /// The kind and the version of this state in a saved machine.
    pub const ID: (&'static str, u32) = ("acpi-power", 1);
}

impl AcpiPower {
    /// Offset of the sleep control register.
    pub const SLEEP_CONTROL: u64 = 0;
    /// Offset of the sleep status register.
    pub const SLEEP_STATUS: u64 = 1;
    /// Offset of the reset register.
    pub const RESET: u64 = 2;
    /// The value that resets when it is written to the reset register.
    pub const RESET_VALUE: u8 = 1;
    /// The sleep type that means power-off (SLP_TYP of `\_S5`).
    pub const S5: u8 = 5;
    /// The sleep type's lowest bit in the sleep control register.
    pub const SLEEP_TYPE_SHIFT: u8 = 2;
    /// The bit of the sleep control register that enters the sleep state (SLP_EN).
    pub const SLEEP_ENABLE: u8 = 1 << 5;

    /// The registers of a machine that has just been started.
    pub fn new() -> Self {
        Self::default()
    }

    /// The registers of a saved machine.
    ///
    /// # Errors
    /// [`Error::State`] for a sleep type above 7.
    pub fn from_state(state: &AcpiPowerState) -> Result<Self, Error> {
        if state.sleep_type > 7 {
            return Err(Error::State {
                device: NAME,
                reason: "its sleep type is above 7",
            });
        }
        Ok(Self {
            sleep_type: state.sleep_type,
        })
    }

    /// The state to be saved.
    pub fn state(&self) -> AcpiPowerState {
        AcpiPowerState {
            sleep_type: self.sleep_type,
        }
    }
}

impl Device for AcpiPower {
    const PORTS: u64 = 3;

    fn read_register(&mut self, offset: u64) -> u8 {
        match offset {
            // SLP_EN is write-only.
            Self::SLEEP_CONTROL => self.sleep_type << Self::SLEEP_TYPE_SHIFT,
            // WAK_STS is never set: no sleep state is one to wake up from.
            _ => 0,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) -> Result<Option<Event>, Error> {
        match offset {
            Self::SLEEP_CONTROL => {
                self.sleep_type = (value & SLEEP_TYPE_MASK) >> Self::SLEEP_TYPE_SHIFT;
                let enters = value & Self::SLEEP_ENABLE != 0 && self.sleep_type == Self::S5;
                Ok(enters.then_some(Event::PowerOff))
            }
            Self::RESET if value == Self::RESET_VALUE => Ok(Some(Event::Reset)),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_with_enable_powers_off() {
        let mut power = AcpiPower::new();
        for value in 0..=u8::MAX {
            let event = power.write(AcpiPower::SLEEP_CONTROL, &[value]).unwrap();
            let s5 = value >> 2 & 7 == 5 && value & 0x20 != 0;
            assert_eq!(event, s5.then_some(Event::PowerOff), "{value:#x}");
            let mut read = [0];
            power.read(AcpiPower::SLEEP_CONTROL, &mut read);
            assert_eq!(read, [value & 0x1c]);
        }
    }

    #[test]
    fn only_the_reset_value_resets() {
        let mut power = AcpiPower::new();
        for value in 0..=u8::MAX {
            let event = power.write(AcpiPower::RESET, &[value]).unwrap();
            assert_eq!(event, (value == 1).then_some(Event::Reset));
        }
        assert_eq!(power.write(AcpiPower::SLEEP_STATUS, &[0x80]).unwrap(), None);
    }

    #[test]
    fn an_impossible_state_is_refused() {
        assert!(AcpiPower::from_state(&AcpiPowerState { sleep_type: 7 }).is_ok());
        assert!(AcpiPower::from_state(&AcpiPowerState { sleep_type: 8 }).is_err());
    }
}
