//! Random operations on the devices, and the stored inputs of the fuzz target.

mod replay;

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use replay::Target;
use strata_legacy::test_utils::{CountingTrigger, ManualClock};
use strata_legacy::{AcpiPower, EventDevice, Rtc, RtcState, Serial, SerialState};

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..600)
}

proptest! {
    #[test]
    fn serial_port(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Serial)));
    }

    #[test]
    fn cmos_clock(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Rtc)));
    }

    #[test]
    fn power_registers(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Power)));
    }

    #[test]
    fn event_device(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Events)));
    }

    #[test]
    fn pvpanic(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Pvpanic)));
    }

    #[test]
    fn reset_port(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, Some(Target::Reset)));
    }

    #[test]
    fn all_together(bytes in bytes()) {
        replay::run(&replay::decode(&bytes, None));
    }

    #[test]
    fn any_serial_state_is_refused_or_works(
        registers in any::<[u8; 7]>(),
        input in prop::collection::vec(any::<u8>(), 0..70),
    ) {
        let [divisor_low, divisor_high, interrupt_enable, iir, line_control, modem_control, scratch] =
            registers;
        let state = SerialState {
            divisor_low,
            divisor_high,
            interrupt_enable: interrupt_enable & 0x1f,
            interrupt_identification: iir & 7,
            line_control,
            modem_control,
            scratch,
            input,
        };
        let trigger = CountingTrigger::default();
        if let Ok(serial) = Serial::from_state(&state, trigger.clone(), trigger, Vec::new()) {
            prop_assert_eq!(serial.state(), state);
        }
    }

    #[test]
    fn any_clock_state_is_refused_or_works(
        registers in any::<[u8; 3]>(),
        times in any::<(i64, i64)>(),
        halted in any::<Option<[u8; 8]>>(),
    ) {
        let state = RtcState {
            index: registers[0] & 0x8f,
            control_a: registers[1],
            control_b: registers[2],
            offset: times.0,
            halted,
            seen: times.1,
            memory: vec![0; 128],
        };
        if let Ok(rtc) = Rtc::from_state(&state, ManualClock::default()) {
            prop_assert_eq!(rtc.state(), state);
        }
    }
}

#[test]
fn stored_inputs_of_the_fuzz_target() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut forks = 0;
    for entry in fs::read_dir(directory).unwrap() {
        let ops = replay::decode(&fs::read(entry.unwrap().path()).unwrap(), None);
        forks += ops
            .iter()
            .filter(|op| matches!(op, replay::Op::Fork))
            .count();
        replay::run(&ops);
    }
    assert!(forks >= 4);
}

#[test]
fn states_survive_being_written_as_text() {
    let trigger = CountingTrigger::default();
    let mut serial = Serial::new(trigger.clone(), trigger.clone(), Vec::new());
    serial.enqueue(b"typed").unwrap();
    let state = serial.state();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<SerialState>(&text).unwrap(), state);

    let state = Rtc::new(ManualClock::default()).state();
    let text = serde_json::to_string(&state).unwrap();
    assert_eq!(serde_json::from_str::<RtcState>(&text).unwrap(), state);

    assert_eq!(
        serde_json::to_string(&AcpiPower::new().state()).unwrap(),
        r#"{"sleep_type":0}"#
    );
    let state = EventDevice::new(trigger).state();
    assert_eq!(serde_json::to_string(&state).unwrap(), r#"{"pending":0}"#);
}
