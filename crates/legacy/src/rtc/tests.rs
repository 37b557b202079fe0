use std::time::Duration;

use super::*;
use crate::test_utils::ManualClock;

/// 2024-02-29, a Thursday, 13:59:58 UTC.
const NOW: Duration = Duration::from_secs(1_709_215_198);
const BCD_24: u8 = 0b010;
const BINARY_24: u8 = 0b110;

struct Rig {
    rtc: Rtc<ManualClock>,
    clock: ManualClock,
}

impl Rig {
    fn new() -> Self {
        let clock = ManualClock::new(NOW);
        Self {
            rtc: Rtc::new(clock.clone()),
            clock,
        }
    }

    fn get(&mut self, index: u8) -> u8 {
        let mut data = [0];
        assert_eq!(self.rtc.write(0, &[index]).unwrap(), None);
        self.rtc.read(1, &mut data);
        data[0]
    }

    fn set(&mut self, index: u8, value: u8) {
        // One access of two bytes, as some firmware does.
        assert_eq!(self.rtc.write(0, &[index, value]).unwrap(), None);
    }

    fn time(&mut self) -> [u8; 8] {
        calendar::INDICES.map(|index| self.get(index))
    }
}

#[test]
fn a_new_clock_shows_the_time_in_bcd() {
    let mut rig = Rig::new();
    assert_eq!(rig.time(), [0x58, 0x59, 0x13, 0x05, 0x29, 0x02, 0x24, 0x20]);
    rig.clock.advance(Duration::from_secs(2));
    assert_eq!(rig.time(), [0x00, 0x00, 0x14, 0x05, 0x29, 0x02, 0x24, 0x20]);
    assert_eq!(rig.get(CONTROL_D), 0x80);
    assert_eq!(rig.get(CONTROL_B), BCD_24);
}

#[test]
fn the_index_is_write_only_and_its_nmi_bit_is_dropped() {
    let mut rig = Rig::new();
    assert_eq!(rig.get(0x80 | CONTROL_D), 0x80);
    let mut data = [0; 2];
    rig.rtc.read(0, &mut data);
    assert_eq!(data, [0xff, 0x80]);
}

#[test]
fn update_in_progress_comes_and_goes_each_second() {
    let mut rig = Rig::new();
    for _ in 0..3 {
        assert_eq!(rig.get(CONTROL_A), 0x26);
        rig.clock
            .advance(Duration::from_nanos(1_000_000_000 - 244_001));
        assert_eq!(rig.get(CONTROL_A), 0x26);
        rig.clock.advance(Duration::from_nanos(1));
        assert_eq!(rig.get(CONTROL_A), 0xa6);
        rig.clock.advance(Duration::from_nanos(244_000));
    }
    rig.clock.advance(Duration::from_nanos(999_999_999));
    rig.set(CONTROL_B, HALTED | BCD_24);
    assert_eq!(rig.get(CONTROL_A), 0x26);
    rig.set(CONTROL_B, BCD_24);
    assert_eq!(rig.get(CONTROL_A), 0xa6);
    rig.set(CONTROL_A, 0xff);
    assert_eq!(rig.get(CONTROL_A), 0x7f);
}

#[test]
fn linux_sets_the_time_with_updates_halted() {
    let mut rig = Rig::new();
    rig.set(CONTROL_B, HALTED | BINARY_24);
    for (index, value) in calendar::INDICES
        .into_iter()
        .zip([30, 20, 10, 9, 31, 12, 99, 19])
    {
        rig.set(index, value);
        rig.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(rig.time(), [30, 20, 10, 9, 31, 12, 99, 19]);
    rig.set(CONTROL_B, BINARY_24);
    // A Friday, whatever was written.
    assert_eq!(rig.time(), [30, 20, 10, 6, 31, 12, 99, 19]);
    rig.clock.advance(Duration::from_secs(86_400));
    assert_eq!(rig.time(), [30, 20, 10, 7, 1, 1, 0, 20]);
}

#[test]
fn a_time_that_is_none_is_dropped() {
    let mut rig = Rig::new();
    rig.set(CONTROL_B, HALTED | BINARY_24);
    rig.set(0x07, 31);
    rig.set(CONTROL_B, BINARY_24);
    assert_eq!(rig.time(), [58, 59, 13, 5, 29, 2, 24, 20]);
    rig.set(0x04, 99);
    assert_eq!(rig.get(0x04), 13);
    // 2030 has no 29th of February.
    rig.set(0x09, 30);
    assert_eq!(rig.get(0x09), 24);
}

#[test]
fn a_register_can_be_set_while_the_clock_runs() {
    let mut rig = Rig::new();
    rig.set(CONTROL_B, BINARY_24);
    rig.set(0x04, 7);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.time(), [59, 59, 7, 5, 29, 2, 24, 20]);
}

#[test]
fn register_c_tells_each_second_once() {
    let mut rig = Rig::new();
    assert_eq!(rig.get(CONTROL_C), 0);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.get(CONTROL_C), UPDATE_ENDED);
    assert_eq!(rig.get(CONTROL_C), 0);
    rig.set(CONTROL_B, BCD_24 | UPDATE_INTERRUPT);
    rig.clock.advance(Duration::from_secs(3));
    assert_eq!(rig.get(CONTROL_C), UPDATE_ENDED | INTERRUPT);
    assert_eq!(rig.get(CONTROL_C), 0);

    // Neither a halted clock nor its being set is an update.
    rig.set(CONTROL_B, HALTED | BCD_24);
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.get(CONTROL_C), 0);
    rig.set(0x00, 0x17);
    rig.set(CONTROL_B, BCD_24);
    assert_eq!(rig.get(CONTROL_C), 0);
}

#[test]
fn memory_keeps_what_is_written_and_the_alarm_is_memory() {
    let mut rig = Rig::new();
    for index in (0..128).filter(|i| !(CONTROL_A..=CONTROL_D).contains(i)) {
        if time_place(index).is_none() {
            rig.set(index, index ^ 0x5a);
            assert_eq!(rig.get(index), index ^ 0x5a);
        }
    }
    rig.set(CONTROL_C, 0xff);
    rig.set(CONTROL_D, 0);
    assert_eq!((rig.get(CONTROL_C), rig.get(CONTROL_D)), (0, 0x80));
}

#[test]
fn a_restored_clock_follows_the_new_machine_s_time() {
    let mut rig = Rig::new();
    rig.set(CONTROL_B, BINARY_24);
    rig.set(0x04, 7);
    let later = ManualClock::new(NOW + Duration::from_secs(3600));
    let rtc = Rtc::from_state(&rig.rtc.state(), later.clone()).unwrap();
    let mut restored = Rig { rtc, clock: later };
    assert_eq!(restored.time(), [58, 59, 8, 5, 29, 2, 24, 20]);
}

#[test]
fn an_impossible_state_is_refused() {
    let state = Rig::new().rtc.state();
    let spoils: [fn(&mut RtcState); 6] = [
        |state| state.memory.truncate(127),
        |state| state.memory.push(0),
        |state| state.index = 128,
        |state| state.control_a = 0x80,
        |state| state.control_b |= HALTED,
        |state| state.halted = Some([0; 8]),
    ];
    for spoil in spoils {
        let mut state = state.clone();
        spoil(&mut state);
        assert!(
            Rtc::from_state(&state, ManualClock::default()).is_err(),
            "{state:?}"
        );
    }
}

#[test]
fn extreme_clocks_and_offsets_are_shown_as_far_as_can_be() {
    let mut state = Rig::new().rtc.state();
    for offset in [i64::MIN, -1, 0, 1, i64::MAX] {
        state.offset = offset;
        let clock = ManualClock::new(Duration::from_secs(1 << 34));
        let mut rig = Rig {
            rtc: Rtc::from_state(&state, clock.clone()).unwrap(),
            clock,
        };
        rig.time();
        rig.set(CONTROL_B, BINARY_24);
        rig.set(0x00, 5);
        assert_eq!(rig.get(0x00), 5);
    }
}
