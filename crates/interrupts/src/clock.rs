//! The VM's clock, which paravirtual clocks of the guest are read from.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VmFd;

use crate::Error;

/// What a guest's monotonic clock does with the time between its save and its restore.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockPolicy {
    /// It stood still: timers keep their distances. For clones, and for going back in time.
    #[default]
    StandStill,
    /// It ran on, by the host's wall clock: for a guest that moved or slept. A host clock that
    /// was set back counts as no time at all, since the guest's must not run backwards.
    RunOn,
}

/// The VM's clock and the moment at which it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ClockState {
    /// KVM's clock, in nanoseconds since the VM was made.
    pub clock_ns: u64,
    /// The host's wall clock, in nanoseconds since 1970 UTC.
    pub realtime_ns: u64,
}

impl ClockState {
    /// Name and version of this layout.
    pub const KIND: (&'static str, u32) = ("kvm-clock", 1);

    /// Reads the clock of `vm`, best with its vCPUs paused.
    ///
    /// # Errors
    ///
    /// [`Error::Clock`] where KVM refuses.
    pub fn read(vm: &VmFd) -> Result<Self, Error> {
        let clock = vm.get_clock().map_err(|source| Error::Clock {
            action: "get",
            source,
        })?;
        Ok(Self {
            clock_ns: clock.clock,
            realtime_ns: now_ns(),
        })
    }

    /// Sets the clock of `vm`, before its vCPUs run.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidState`] where the clock or its resumed value passes 2⁶³ ns (292 years);
    /// [`Error::Clock`] where KVM refuses.
    pub fn write(&self, vm: &VmFd, policy: ClockPolicy) -> Result<(), Error> {
        let clock = kvm_clock_data {
            clock: self.resumed(policy, now_ns())?,
            ..Default::default()
        };
        vm.set_clock(&clock).map_err(|source| Error::Clock {
            action: "set",
            source,
        })
    }

    /// The clock to continue from at the wall time `now_ns`.
    fn resumed(&self, policy: ClockPolicy, now_ns: u64) -> Result<u64, Error> {
        let elapsed = match policy {
            ClockPolicy::StandStill => 0,
            ClockPolicy::RunOn => now_ns.saturating_sub(self.realtime_ns),
        };
        self.clock_ns
            .checked_add(elapsed)
            .filter(|&clock| i64::try_from(clock).is_ok())
            .ok_or(Error::InvalidState {
                what: "clock",
                field: "clock_ns",
            })
    }
}

/// The host's wall clock; one from before 1970 reads as 1970.
fn now_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_decides_what_the_gap_counts() {
        let saved = ClockState {
            clock_ns: 500,
            realtime_ns: 1_000,
        };
        assert_eq!(saved.resumed(ClockPolicy::StandStill, 4_000).unwrap(), 500);
        assert_eq!(saved.resumed(ClockPolicy::RunOn, 4_000).unwrap(), 3_500);
        assert_eq!(
            saved.resumed(ClockPolicy::RunOn, 10).unwrap(),
            500,
            "host clock set back"
        );
    }

    #[test]
    fn a_clock_beyond_all_time_is_refused() {
        let far = ClockState {
            clock_ns: i64::MAX as u64,
            realtime_ns: 0,
        };
        assert!(far.resumed(ClockPolicy::StandStill, 1).is_ok());
        assert!(far.resumed(ClockPolicy::RunOn, 1).is_err());
        let wrapped = ClockState {
            clock_ns: u64::MAX,
            realtime_ns: 0,
        };
        assert!(wrapped.resumed(ClockPolicy::StandStill, 1).is_err());
        assert!(wrapped.resumed(ClockPolicy::RunOn, 1).is_err());
    }
}
