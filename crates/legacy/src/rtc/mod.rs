//! The MC146818 clock and its CMOS memory.

mod calendar;
mod clock;
mod state;

pub use clock::{Clock, SystemClock};
pub use state::RtcState;

use calendar::Shown;

use crate::{Device, Error, Event};

/// Bytes of CMOS memory, the clock's registers included.
const CMOS_LEN: usize = 128;

const CONTROL_A: u8 = 0x0a;
const CONTROL_B: u8 = 0x0b;
const CONTROL_C: u8 = 0x0c;
const CONTROL_D: u8 = 0x0d;

/// Register A: an update is in progress (UIP), and the divider's bits that hold the clock.
const UPDATING: u8 = 1 << 7;
const DIVIDER_HELD: u8 = 0b110 << 4;
/// Register A after a reset: the time base of 32,768 Hz, periodic rate 6.
const CONTROL_A_RESET: u8 = 0x26;

/// Register B: updates are halted (SET), and the update-ended interrupt is enabled (UIE).
const HALTED: u8 = 1 << 7;
const UPDATE_INTERRUPT: u8 = 1 << 4;
/// Register B after a reset: hours from 0 to 23, BCD.
const CONTROL_B_RESET: u8 = 1 << 1;

/// Register C: an enabled interrupt's condition holds (IRQF), an update has ended (UF).
const INTERRUPT: u8 = 1 << 7;
const UPDATE_ENDED: u8 = 1 << 4;

/// Register D: the battery is good (VRT).
const VALID: u8 = 1 << 7;

/// UIP rises 244 µs before the update (MC146818 data sheet, "update cycle").
const UPDATING_FROM: u32 = 1_000_000_000 - 244_000;

/// The CMOS clock: an MC146818 with 128 bytes of memory, at two ports: the index, whose bit 7 masks
/// NMIs and is not kept, and the data.
///
/// It shows the time of its [`Clock`] in UTC, moved by what the guest has set. It has no interrupt
/// and no alarm, so the machine should declare none. "Update in progress" holds for the last
/// 244 µs of each second, as on the chip: Linux finds it clear at its first look almost always, and
/// software that waits for it to come and go sees it come and go.
///
/// A time that is no time (the 31st of February, BCD digits above 9) is not taken over: the clock
/// goes on as before.
#[derive(Debug)]
pub struct Rtc<C> {
    clock: C,
    index: u8,
    control_a: u8,
    control_b: u8,
    /// Seconds that the guest has set its clock ahead of `clock`.
    offset: i64,
    /// What the time's registers hold while updates are halted.
    halted: Option<Shown>,
    /// The second that was shown when register C was last read.
    seen: i64,
    memory: [u8; CMOS_LEN],
}

impl<C: Clock> Rtc<C> {
    /// A clock that shows the time of `clock`, with empty CMOS memory.
    pub fn new(clock: C) -> Self {
        let mut rtc = Self {
            clock,
            index: 0,
            control_a: CONTROL_A_RESET,
            control_b: CONTROL_B_RESET,
            offset: 0,
            halted: None,
            seen: 0,
            memory: [0; CMOS_LEN],
        };
        rtc.seen = rtc.second();
        rtc
    }

    /// The second of the guest's time, counted from 1970.
    fn second(&self) -> i64 {
        self.host_second().saturating_add(self.offset)
    }

    fn host_second(&self) -> i64 {
        i64::try_from(self.clock.now().as_secs()).unwrap_or(i64::MAX)
    }

    fn shown(&self) -> Shown {
        self.halted
            .unwrap_or_else(|| calendar::show(self.second(), self.control_b))
    }

    /// Goes on from the time that the registers hold, if they hold one.
    fn take_over(&mut self, shown: &Shown) {
        if let Some(second) = calendar::read(shown, self.control_b) {
            self.offset = second.saturating_sub(self.host_second());
        }
    }

    fn read_control_a(&self) -> u8 {
        let runs = self.halted.is_none() && self.control_a & DIVIDER_HELD != DIVIDER_HELD;
        let updating = runs && self.clock.now().subsec_nanos() >= UPDATING_FROM;
        self.control_a | if updating { UPDATING } else { 0 }
    }

    fn read_control_c(&mut self) -> u8 {
        let second = self.second();
        if self.halted.is_some() || second == self.seen {
            return 0;
        }
        self.seen = second;
        let interrupt = if self.control_b & UPDATE_INTERRUPT != 0 {
            INTERRUPT
        } else {
            0
        };
        UPDATE_ENDED | interrupt
    }

    fn write_control_b(&mut self, value: u8) {
        let halts = value & HALTED != 0;
        if halts && self.halted.is_none() {
            self.halted = Some(self.shown());
        }
        self.control_b = value;
        if let Some(shown) = self.halted.take_if(|_| !halts) {
            self.take_over(&shown);
            self.seen = self.second();
        }
    }

    fn write_time(&mut self, place: usize, value: u8) {
        let mut shown = self.shown();
        if let Some(register) = shown.get_mut(place) {
            *register = value;
        }
        match &mut self.halted {
            Some(halted) => *halted = shown,
            None => self.take_over(&shown),
        }
    }

    fn read_data(&mut self) -> u8 {
        match self.index {
            CONTROL_A => self.read_control_a(),
            CONTROL_B => self.control_b,
            CONTROL_C => self.read_control_c(),
            CONTROL_D => VALID,
            index => match time_place(index) {
                Some(place) => self.shown().get(place).copied().unwrap_or(0),
                None => self.memory.get(usize::from(index)).copied().unwrap_or(0xff),
            },
        }
    }

    fn write_data(&mut self, value: u8) {
        match self.index {
            CONTROL_A => self.control_a = value & !UPDATING,
            CONTROL_B => self.write_control_b(value),
            CONTROL_C | CONTROL_D => {}
            index => match time_place(index) {
                Some(place) => self.write_time(place, value),
                None => {
                    if let Some(byte) = self.memory.get_mut(usize::from(index)) {
                        *byte = value;
                    }
                }
            },
        }
    }
}

/// Which of the time's registers the index selects.
fn time_place(index: u8) -> Option<usize> {
    calendar::INDICES.iter().position(|known| *known == index)
}

impl<C: Clock> Device for Rtc<C> {
    const PORTS: u64 = 2;

    fn read_register(&mut self, offset: u64) -> u8 {
        // The index is write-only.
        if offset == 0 { 0xff } else { self.read_data() }
    }

    fn write_register(&mut self, offset: u64, value: u8) -> Result<Option<Event>, Error> {
        if offset == 0 {
            self.index = value & 0x7f;
        } else {
            self.write_data(value);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests;
