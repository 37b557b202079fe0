use std::io::{self, Write};

use vm_superio::serial::{self, NoEvents};

use crate::{Device, Error, Event, Trigger};

const NAME: &str = "serial port";

/// Bytes of input that the port holds for the guest.
const INPUT_LEN: usize = 64;

/// Offsets of registers: data, interrupt enable, interrupt identification, line control and scratch.
/// With the divisor latch bit in line control the first two are the divisor.
const DATA: u64 = 0;
const IER: u64 = 1;
const IIR: u64 = 2;
const LCR: u64 = 3;
const SCR: u64 = 7;
const LCR_DLAB: u8 = 1 << 7;

/// Modem control register: its offset, and the bit of the loopback mode.
const MCR: u64 = 4;
const MCR_LOOP: u8 = 1 << 4;

/// A 16550 serial port: `vm-superio`'s, with input that knows back-pressure.
///
/// What the guest sends goes to `out` byte by byte, each one flushed. What it should receive goes in by
/// [`enqueue`](Self::enqueue), which takes as much as fits: the input lives in a queue of 64 bytes,
/// and neither side can make it longer. After `enqueue` has not taken everything, the trigger
/// `room` fires as soon as it is worth to try again.
///
/// A reset of the receive FIFO keeps its bytes: what was typed while the guest booted is not lost.
///
/// ```
/// use strata_legacy::test_utils::CountingTrigger;
/// use strata_legacy::{Device, Serial};
///
/// let (interrupt, room) = (CountingTrigger::default(), CountingTrigger::default());
/// let mut serial = Serial::new(interrupt, room, Vec::new());
/// serial.write(0, b"!")?;
/// assert_eq!(serial.output(), b"!");
/// assert_eq!(serial.enqueue(b"ls\n")?, 3);
/// # Ok::<(), strata_legacy::Error>(())
/// ```
#[derive(Debug)]
pub struct Serial<T: Trigger<E = io::Error>, W: Write> {
    port: serial::Serial<T, NoEvents, W>,
    room: T,
    /// Whether input waits outside for room.
    input_waits: bool,
}

/// The state of a [`Serial`]: its registers and the input that the guest has not read. It is
/// untrusted: [`Serial::from_state`] checks it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SerialState {
    /// Divisor latch, low byte.
    pub divisor_low: u8,
    /// Divisor latch, high byte.
    pub divisor_high: u8,
    /// Interrupt enable register: bits 0 to 3.
    pub interrupt_enable: u8,
    /// Interrupt identification register: 1 for none, or the pending 2 (transmitter empty) and 4
    /// (data received).
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Input, at most 64 bytes.
    pub input: Vec<u8>,
}

impl SerialState {
    /// The kind and the version of this state in a saved machine.
    pub const ID: (&'static str, u32) = ("serial-16550", 1);

    fn check(&self) -> Result<(), Error> {
        let fail = |reason| {
            Err(Error::State {
                device: NAME,
                reason,
            })
        };
        if self.input.len() > INPUT_LEN {
            return fail("it has more than 64 bytes of input");
        }
        if self.interrupt_enable > 0xf {
            return fail("its interrupt enable register has bits above 3");
        }
        if !matches!(self.interrupt_identification, 1 | 2 | 4 | 6) {
            return fail("its interrupt identification register is none of 1, 2, 4 and 6");
        }
        Ok(())
    }
}

impl<T: Trigger<E = io::Error>, W: Write> Serial<T, W> {
    /// A port that raises `interrupt` by an edge, asks for more input by `room` and sends to `out`.
    pub fn new(interrupt: T, room: T, out: W) -> Self {
        Self {
            port: serial::Serial::new(interrupt, out),
            room,
            input_waits: false,
        }
    }

    /// The port of a saved machine. It raises its pending interrupts again, and takes input at once
    /// if it has room.
    ///
    /// # Errors
    /// [`Error::State`] if `state` is not one that a port can be in, [`Error::Interrupt`].
    pub fn from_state(state: &SerialState, interrupt: T, room: T, out: W) -> Result<Self, Error> {
        state.check()?;
        let defaults = serial::SerialState::default();
        let data_ready = u8::from(!state.input.is_empty());
        let state = serial::SerialState {
            baud_divisor_low: state.divisor_low,
            baud_divisor_high: state.divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: defaults.line_status | data_ready,
            modem_control: state.modem_control,
            modem_status: defaults.modem_status,
            scratch: state.scratch,
            in_buffer: state.input.clone(),
        };
        let port = serial::Serial::from_state(&state, interrupt, NoEvents, out).map_err(failed)?;
        Ok(Self {
            port,
            room,
            input_waits: false,
        })
    }

    /// The state to be saved.
    pub fn state(&self) -> SerialState {
        let state = self.port.state();
        SerialState {
            divisor_low: state.baud_divisor_low,
            divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            modem_control: state.modem_control,
            scratch: state.scratch,
            input: state.in_buffer,
        }
    }

    /// Gives the guest the first bytes of `input`, and returns how many. It takes none while the
    /// guest has the port in loopback mode.
    ///
    /// # Errors
    /// [`Error::Interrupt`]; the input is in the queue then.
    pub fn enqueue(&mut self, input: &[u8]) -> Result<usize, Error> {
        let len = input.len().min(self.input_room());
        self.input_waits = len < input.len();
        let (now, _) = input.split_at(len);
        if !now.is_empty() {
            self.port.enqueue_raw_bytes(now).map_err(failed)?;
        }
        Ok(len)
    }

    /// The number of bytes that [`enqueue`](Self::enqueue) would take now.
    pub fn input_room(&mut self) -> usize {
        if self.is_looped() {
            0
        } else {
            self.port.fifo_capacity()
        }
    }

    /// Resets the registers as the machine's reset line does. Input that was not read is dropped.
    ///
    /// # Errors
    /// [`Error::Interrupt`], [`Error::SerialOutput`]; the registers are reset all the same.
    pub fn reset(&mut self) -> Result<(), Error> {
        let defaults = serial::SerialState::default();
        let writes = [
            (LCR, LCR_DLAB),
            (DATA, defaults.baud_divisor_low),
            (IER, defaults.baud_divisor_high),
            (LCR, defaults.line_control),
            (IER, defaults.interrupt_enable),
            (MCR, defaults.modem_control),
            (SCR, defaults.scratch),
        ];
        let mut reset = Ok(());
        for (offset, value) in writes {
            let written = self.write_register(offset, value).map(drop);
            reset = reset.and(written);
        }
        for _ in 0..INPUT_LEN {
            self.port.read(DATA as u8);
        }
        // To read the interrupt identification is to answer it.
        self.port.read(IIR as u8);
        if self.input_waits {
            self.ask_for_input();
        }
        reset
    }

    /// Where the output goes.
    pub fn output(&self) -> &W {
        self.port.writer()
    }

    /// Where the output goes, for changing it.
    pub fn output_mut(&mut self) -> &mut W {
        self.port.writer_mut()
    }

    fn is_looped(&mut self) -> bool {
        self.port.read(MCR as u8) & MCR_LOOP != 0
    }

    /// Asks for the input that waits.
    fn ask_for_input(&mut self) {
        // Asked in vain, it asks again at the guest's next read.
        self.input_waits = self.room.trigger().is_err();
    }
}

impl<T: Trigger<E = io::Error>, W: Write> Device for Serial<T, W> {
    const PORTS: u64 = 8;

    fn read_register(&mut self, offset: u64) -> u8 {
        let value = self.port.read(offset as u8);
        // The queue is filled again when it is empty, not byte by byte.
        if self.input_waits && self.input_room() == INPUT_LEN {
            self.ask_for_input();
        }
        value
    }

    /// # Errors
    /// [`Error::SerialOutput`] if the output refuses the byte, which is lost then;
    /// [`Error::Interrupt`].
    fn write_register(&mut self, offset: u64, value: u8) -> Result<Option<Event>, Error> {
        self.port.write(offset as u8, value).map_err(failed)?;
        // Input may have been refused because of the loopback mode alone.
        if offset == MCR && self.input_waits && self.input_room() > 0 {
            self.ask_for_input();
        }
        Ok(None)
    }
}

fn failed(error: serial::Error<io::Error>) -> Error {
    match error {
        serial::Error::Trigger(source) => Error::Interrupt {
            device: NAME,
            source,
        },
        serial::Error::IOError(source) => Error::SerialOutput(source),
        serial::Error::FullFifo => Error::State {
            device: NAME,
            reason: "its input is full",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_utils::CountingTrigger;

    const LSR: u64 = 5;

    struct Rig {
        serial: Serial<CountingTrigger, Vec<u8>>,
        interrupt: CountingTrigger,
        room: CountingTrigger,
    }

    fn rig() -> Rig {
        let (interrupt, room) = (CountingTrigger::default(), CountingTrigger::default());
        Rig {
            serial: Serial::new(interrupt.clone(), room.clone(), Vec::new()),
            interrupt,
            room,
        }
    }

    fn read(serial: &mut Serial<CountingTrigger, Vec<u8>>, offset: u64) -> u8 {
        let mut data = [0];
        serial.read(offset, &mut data);
        data[0]
    }

    fn drain(serial: &mut Serial<CountingTrigger, Vec<u8>>, bytes: usize) {
        for _ in 0..bytes {
            read(serial, 0);
        }
    }

    #[test]
    fn bytes_go_both_ways() {
        let Rig {
            mut serial,
            interrupt,
            ..
        } = rig();
        serial.write(IER, &[1]).unwrap();
        serial.write(0, b"a").unwrap();
        assert_eq!(serial.output(), b"a");
        assert_eq!(read(&mut serial, LSR), 0x60);
        assert_eq!(serial.enqueue(b"xy").unwrap(), 2);
        assert_eq!(interrupt.count(), 1);
        assert_eq!(read(&mut serial, LSR), 0x61);
        assert_eq!([read(&mut serial, 0), read(&mut serial, 0)], *b"xy");
        assert_eq!(read(&mut serial, LSR), 0x60);
    }

    #[test]
    fn input_that_waits_is_asked_for_when_the_queue_is_empty() {
        let Rig {
            mut serial, room, ..
        } = rig();
        assert_eq!(serial.input_room(), INPUT_LEN);
        assert_eq!(serial.enqueue(&[b'x'; 64]).unwrap(), 64);
        assert_eq!(serial.enqueue(b"more").unwrap(), 0);
        for _ in 0..63 {
            read(&mut serial, 0);
            assert_eq!(room.count(), 0);
        }
        read(&mut serial, 0);
        assert_eq!(room.count(), 1);
        // Nothing waits any more, so nothing is asked for.
        read(&mut serial, 0);
        assert_eq!(serial.enqueue(b"more").unwrap(), 4);
        drain(&mut serial, 4);
        assert_eq!(room.count(), 1);
    }

    #[test]
    fn a_question_that_failed_is_asked_again() {
        let Rig {
            mut serial, room, ..
        } = rig();
        serial.enqueue(&[b'x'; 65]).unwrap();
        room.fail(true);
        drain(&mut serial, 64);
        room.fail(false);
        read(&mut serial, LSR);
        assert_eq!(room.count(), 1);
    }

    #[test]
    fn loopback_keeps_input_out_and_asks_for_it_afterwards() {
        let Rig {
            mut serial, room, ..
        } = rig();
        serial.write(MCR, &[MCR_LOOP]).unwrap();
        assert_eq!(serial.enqueue(b"x").unwrap(), 0);
        for _ in 0..100 {
            serial.write(0, b"loop").unwrap();
        }
        assert!(serial.output().is_empty());
        assert_eq!(serial.state().input.len(), INPUT_LEN);
        serial.write(MCR, &[0]).unwrap();
        assert_eq!(room.count(), 0);
        drain(&mut serial, 64);
        assert_eq!(room.count(), 1);

        serial.write(MCR, &[MCR_LOOP]).unwrap();
        serial.enqueue(b"x").unwrap();
        serial.write(MCR, &[0]).unwrap();
        assert_eq!(room.count(), 2);
    }

    #[test]
    fn a_lost_byte_is_an_error_and_the_port_goes_on() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::WouldBlock.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let interrupt = CountingTrigger::default();
        let mut serial = Serial::new(interrupt.clone(), interrupt.clone(), Closed);
        serial.write(IER, &[2]).unwrap();
        let before = interrupt.count();
        let mut iir = [0];
        serial.read(2, &mut iir);
        assert!(matches!(serial.write(0, b"a"), Err(Error::SerialOutput(_))));
        assert_eq!(interrupt.count(), before + 1);
    }

    #[test]
    fn an_impossible_state_is_refused() {
        let state = rig().serial.state();
        let spoils: [fn(&mut SerialState); 4] = [
            |state| state.input = vec![0; 65],
            |state| state.interrupt_enable = 0x10,
            |state| state.interrupt_identification = 0,
            |state| state.interrupt_identification = 3,
        ];
        for spoil in spoils {
            let mut state = state.clone();
            spoil(&mut state);
            let trigger = CountingTrigger::default();
            let result = Serial::from_state(&state, trigger.clone(), trigger, Vec::new());
            assert!(matches!(result, Err(Error::State { .. })), "{state:?}");
        }
    }

    #[test]
    fn a_pending_interrupt_is_raised_again_after_a_restore() {
        let Rig { mut serial, .. } = rig();
        serial.write(IER, &[1]).unwrap();
        serial.enqueue(b"x").unwrap();
        let (interrupt, room) = (CountingTrigger::default(), CountingTrigger::default());
        let mut restored =
            Serial::from_state(&serial.state(), interrupt.clone(), room, Vec::new()).unwrap();
        assert_eq!(interrupt.count(), 1);
        assert_eq!(read(&mut restored, 0), b'x');
    }

    #[test]
    fn a_reset_leaves_nothing_of_before() {
        let Rig {
            mut serial, room, ..
        } = rig();
        let fresh = serial.state();
        for (register, value) in [(LCR, 0x80), (DATA, 1), (LCR, 0x1b), (IER, 5), (SCR, 9)] {
            serial.write(register, &[value]).unwrap();
        }
        assert_eq!(serial.enqueue(&[b'a'; 80]).unwrap(), INPUT_LEN);
        serial.reset().unwrap();
        assert_eq!(serial.state(), fresh);
        assert_eq!(read(&mut serial, LSR), 0x60);
        assert_eq!(room.count(), 1, "what waits is asked for");
        // From the loopback mode, too.
        serial.write(MCR, &[MCR_LOOP]).unwrap();
        serial.write(DATA, b"x").unwrap();
        serial.reset().unwrap();
        assert_eq!(serial.state(), fresh);
    }
}
