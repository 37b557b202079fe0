use std::io;

use crate::{Device, Error, Event, Trigger};

const NAME: &str = "generic event device";

/// The status register behind a Generic Event Device (ACPI 6.5 §5.6.9, `ACPI0013`): how a machine of
/// hardware-reduced ACPI tells its guest of a pressed power button or a plugged device.
///
/// The machine [raises](Self::raise) events. The interrupt makes the guest run the method `_EVT` of
/// the DSDT, which reads the register, and by reading clears it, and notifies what the bits name.
#[derive(Debug)]
pub struct EventDevice<T> {
    pending: u8,
    interrupt: T,
}

/// The state of an [`EventDevice`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct EventDeviceState {
    /// The events that the guest has not read yet.
    pub pending: u8,
}

impl EventDeviceState {
    /// The kind and the version of this state in a saved machine.
    pub const ID: (&'static str, u32) = ("acpi-event-device", 1);
}

impl<T: Trigger<E = io::Error>> EventDevice<T> {
    /// A device without events, which raises `interrupt` by an edge.
    pub fn new(interrupt: T) -> Self {
        Self {
            pending: 0,
            interrupt,
        }
    }

    /// The device of a saved machine. It raises its interrupt again if events are pending.
    ///
    /// # Errors
    /// [`Error::Interrupt`].
    pub fn from_state(state: &EventDeviceState, interrupt: T) -> Result<Self, Error> {
        let mut device = Self::new(interrupt);
        if state.pending != 0 {
            device.raise(state.pending)?;
        }
        Ok(device)
    }

    /// The state to be saved.
    pub fn state(&self) -> EventDeviceState {
        EventDeviceState {
            pending: self.pending,
        }
    }

    /// Tells the guest of `events`, one bit for each, as
    /// [`POWER_BUTTON`](crate::layout::POWER_BUTTON).
    ///
    /// # Errors
    /// [`Error::Interrupt`]; the events stay pending then.
    pub fn raise(&mut self, events: u8) -> Result<(), Error> {
        self.pending |= events;
        let raised = self.interrupt.trigger();
        raised.map_err(|source| Error::Interrupt {
            device: NAME,
            source,
        })
    }
}

impl<T: Trigger<E = io::Error>> Device for EventDevice<T> {
    const PORTS: u64 = 1;

    fn read_register(&mut self, _offset: u64) -> u8 {
        std::mem::take(&mut self.pending)
    }

    fn write_register(&mut self, _offset: u64, _value: u8) -> Result<Option<Event>, Error> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::POWER_BUTTON;
    use crate::test_utils::CountingTrigger;

    type Ged = EventDevice<CountingTrigger>;

    fn read(device: &mut Ged) -> u8 {
        let mut data = [0];
        device.read(0, &mut data);
        data[0]
    }

    #[test]
    fn each_event_interrupts_and_is_read_once() {
        let interrupt = CountingTrigger::default();
        let mut device = EventDevice::new(interrupt.clone());
        device.raise(POWER_BUTTON).unwrap();
        device.raise(1 << 3).unwrap();
        assert_eq!(interrupt.count(), 2);
        assert_eq!(read(&mut device), 0b1001);
        assert_eq!(read(&mut device), 0);
        device.write(0, &[0xff]).unwrap();
        assert_eq!(read(&mut device), 0);
    }

    #[test]
    fn pending_events_interrupt_again_after_a_restore() {
        let mut device = EventDevice::new(CountingTrigger::default());
        device.raise(POWER_BUTTON).unwrap();
        let interrupt = CountingTrigger::default();
        let mut restored = EventDevice::from_state(&device.state(), interrupt.clone()).unwrap();
        assert_eq!(interrupt.count(), 1);
        assert_eq!(read(&mut restored), POWER_BUTTON);
        EventDevice::from_state(&restored.state(), interrupt.clone()).unwrap();
        assert_eq!(interrupt.count(), 1);
    }

    #[test]
    fn an_event_stays_when_the_interrupt_fails() {
        let interrupt = CountingTrigger::default();
        interrupt.fail(true);
        let mut device = EventDevice::new(interrupt);
        assert!(matches!(device.raise(1), Err(Error::Interrupt { .. })));
        assert_eq!(read(&mut device), 1);
    }
}
