//! Replays a sequence of operations on all devices, as the tests and the fuzz target do.
//!
//! From a fork on, a second machine made of the first one's state goes through the same operations
//! and must show the same.

use std::cell::RefCell;
use std::io::{self, Write};
use std::rc::Rc;
use std::time::Duration;

use strata_legacy::test_utils::{CountingTrigger, ManualClock};
use strata_legacy::{
    AcpiPower, AcpiPowerState, Clock, Device, Error, Event, EventDevice, EventDeviceState, Pvpanic,
    ResetPort, Rtc, RtcState, Serial, SerialState,
};

/// One of the devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Serial,
    Rtc,
    Power,
    Events,
    Pvpanic,
    Reset,
}

pub(crate) const TARGETS: [Target; 6] = [
    Target::Serial,
    Target::Rtc,
    Target::Power,
    Target::Events,
    Target::Pvpanic,
    Target::Reset,
];

/// What a guest or the machine does.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Read {
        target: Target,
        offset: u64,
        len: usize,
    },
    Write {
        target: Target,
        offset: u64,
        data: Vec<u8>,
    },
    Enqueue(Vec<u8>),
    Raise(u8),
    Advance(Duration),
    Fork,
}

/// What can be seen of one operation.
#[derive(Debug, PartialEq)]
struct Seen {
    data: Vec<u8>,
    result: Result<Option<Event>, String>,
    output: Vec<u8>,
    interrupts: u64,
}

/// Takes operations from `bytes`, on `only` one device or on all.
pub(crate) fn decode(bytes: &[u8], only: Option<Target>) -> Vec<Op> {
    let mut bytes = bytes.iter().copied();
    let mut ops = Vec::new();
    while let Some(op) = decode_op(&mut bytes, only) {
        ops.push(op);
    }
    ops
}

fn decode_op(bytes: &mut impl Iterator<Item = u8>, only: Option<Target>) -> Option<Op> {
    let first = bytes.next()?;
    let target = only.unwrap_or(TARGETS[usize::from(first >> 3) % TARGETS.len()]);
    let argument = bytes.next()?;
    // Mostly offsets around the device's own, sometimes at the end of the address space.
    let offset = match argument {
        240.. => u64::MAX - u64::from(argument - 240),
        _ => u64::from(argument % 10),
    };
    Some(match first & 7 {
        0 | 1 => Op::Read {
            target,
            offset,
            len: usize::from(bytes.next()? % 9),
        },
        2 | 3 => {
            let len = usize::from(bytes.next()? % 9);
            Op::Write {
                target,
                offset,
                data: bytes.by_ref().take(len).collect(),
            }
        }
        4 => Op::Enqueue(vec![argument; usize::from(argument)]),
        5 => Op::Raise(argument),
        // Up to 2.3 seconds, in steps that meet the update cycle.
        6 => Op::Advance(Duration::from_micros(u64::from(argument) * 9_001)),
        _ => Op::Fork,
    })
}

/// Goes through `ops`.
///
/// # Panics
/// If a device panics, breaks a promise or continues otherwise after a restore.
pub(crate) fn run(ops: &[Op]) {
    let mut machine = Machine::new();
    let mut twin = None;
    for op in ops {
        if let Op::Fork = op {
            twin = Some(machine.restored());
            continue;
        }
        let seen = machine.apply(op);
        if let Some(twin) = &mut twin {
            assert_eq!(Machine::apply(twin, op), seen, "{op:?}");
        }
        assert!(machine.serial.state().input.len() <= 64);
    }
    let restored = machine.restored();
    assert_eq!(restored.state(), machine.state());
    if let Some(twin) = twin {
        assert_eq!(twin.state(), machine.state());
    }
}

#[derive(Debug, Clone, Default)]
struct Output(Rc<RefCell<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A receiver that takes not everything: the byte is lost, the port goes on.
        if bytes == [0xee] {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.borrow_mut().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Machine {
    serial: Serial<CountingTrigger, Output>,
    rtc: Rtc<ManualClock>,
    power: AcpiPower,
    events: EventDevice<CountingTrigger>,
    clock: ManualClock,
    interrupt: CountingTrigger,
    output: Output,
}

type State = (SerialState, RtcState, AcpiPowerState, EventDeviceState);

impl Machine {
    fn new() -> Self {
        let clock = ManualClock::new(Duration::from_secs(1_709_215_198));
        let (interrupt, output) = (CountingTrigger::default(), Output::default());
        let room = CountingTrigger::default();
        Self {
            serial: Serial::new(interrupt.clone(), room, output.clone()),
            rtc: Rtc::new(clock.clone()),
            power: AcpiPower::new(),
            events: EventDevice::new(interrupt.clone()),
            clock,
            interrupt,
            output,
        }
    }

    fn state(&self) -> State {
        (
            self.serial.state(),
            self.rtc.state(),
            self.power.state(),
            self.events.state(),
        )
    }

    fn restored(&self) -> Self {
        match self.try_restored() {
            Ok(machine) => machine,
            Err(error) => panic!("{error}: {:?}", self.state()),
        }
    }

    fn try_restored(&self) -> Result<Self, Error> {
        let clock = ManualClock::new(self.clock.now());
        let (interrupt, output) = (CountingTrigger::default(), Output::default());
        let room = CountingTrigger::default();
        let (serial, rtc, power, events) = self.state();
        Ok(Self {
            serial: Serial::from_state(&serial, interrupt.clone(), room, output.clone())?,
            rtc: Rtc::from_state(&rtc, clock.clone())?,
            power: AcpiPower::from_state(&power)?,
            events: EventDevice::from_state(&events, interrupt.clone())?,
            clock,
            interrupt,
            output,
        })
    }

    fn apply(&mut self, op: &Op) -> Seen {
        let before = self.interrupt.count();
        let mut data = Vec::new();
        let mut result = Ok(None);
        match op {
            Op::Read {
                target,
                offset,
                len,
            } => {
                data.resize(*len, 0x5a);
                self.read(*target, *offset, &mut data);
            }
            Op::Write {
                target,
                offset,
                data,
            } => result = self.write(*target, *offset, data),
            Op::Enqueue(input) => match self.serial.enqueue(input) {
                Ok(len) => data.push(len as u8),
                Err(error) => result = Err(error),
            },
            Op::Raise(events) => result = self.events.raise(*events).map(|()| None),
            Op::Advance(by) => self.clock.advance(*by),
            Op::Fork => {}
        }
        Seen {
            data,
            result: result.map_err(|error| error.to_string()),
            output: self.output.0.take(),
            interrupts: self.interrupt.count() - before,
        }
    }

    fn read(&mut self, target: Target, offset: u64, data: &mut [u8]) {
        match target {
            Target::Serial => self.serial.read(offset, data),
            Target::Rtc => self.rtc.read(offset, data),
            Target::Power => self.power.read(offset, data),
            Target::Events => self.events.read(offset, data),
            Target::Pvpanic => Pvpanic.read(offset, data),
            Target::Reset => ResetPort.read(offset, data),
        }
    }

    fn write(&mut self, target: Target, offset: u64, data: &[u8]) -> Result<Option<Event>, Error> {
        match target {
            Target::Serial => self.serial.write(offset, data),
            Target::Rtc => self.rtc.write(offset, data),
            Target::Power => self.power.write(offset, data),
            Target::Events => self.events.write(offset, data),
            Target::Pvpanic => Pvpanic.write(offset, data),
            Target::Reset => ResetPort.write(offset, data),
        }
    }
}
