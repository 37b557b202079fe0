use super::{CMOS_LEN, Clock, HALTED, Rtc, UPDATING};
use crate::Error;

const NAME: &str = "CMOS clock";

/// The state of an [`Rtc`]. It is untrusted: [`Rtc::from_state`] checks it.
///
/// The time itself is not in it: a restored guest sees the time of the restoring machine's clock,
/// moved by what the guest has set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RtcState {
    /// The selected index, 0 to 127.
    pub index: u8,
    /// Register A without UIP.
    pub control_a: u8,
    /// Register B.
    pub control_b: u8,
    /// Seconds that the guest has set its clock ahead of the machine's.
    pub offset: i64,
    /// Second, minute, hour, weekday, day, month, year and century while register B halts updates,
    /// as the registers hold them.
    pub halted: Option<[u8; 8]>,
    /// The second of the guest's time, counted from 1970, when register C was last read.
    pub seen: i64,
    /// CMOS memory: 128 bytes. Those that the clock's registers lie on have no meaning.
    pub memory: Vec<u8>,
}

impl RtcState {
    /// The kind and the version of this state in a saved machine.
    pub const ID: (&'static str, u32) = ("cmos-rtc", 1);
}

impl<C: Clock> Rtc<C> {
    /// The clock of a saved machine.
    ///
    /// # Errors
    /// [`Error::State`] if `state` is not one that a clock can be in.
    pub fn from_state(state: &RtcState, clock: C) -> Result<Self, Error> {
        let fail = |reason| Error::State {
            device: NAME,
            reason,
        };
        let memory = <[u8; CMOS_LEN]>::try_from(state.memory.as_slice());
        let memory = memory.map_err(|_| fail("its memory has not 128 bytes"))?;
        if usize::from(state.index) >= CMOS_LEN {
            return Err(fail("its index is above 127"));
        }
        if state.control_a & UPDATING != 0 {
            return Err(fail("its register A says that an update is in progress"));
        }
        if state.halted.is_some() != (state.control_b & HALTED != 0) {
            return Err(fail("its register B and its halted time do not agree"));
        }
        let RtcState {
            index,
            control_a,
            control_b,
            offset,
            halted,
            seen,
            ..
        } = *state;
        Ok(Self {
            clock,
            index,
            control_a,
            control_b,
            offset,
            halted,
            seen,
            memory,
        })
    }

    /// The state to be saved.
    pub fn state(&self) -> RtcState {
        RtcState {
            index: self.index,
            control_a: self.control_a,
            control_b: self.control_b,
            offset: self.offset,
            halted: self.halted,
            seen: self.seen,
            memory: self.memory.to_vec(),
        }
    }
}
