//! What a saved IOAPIC may hold.

use strata_interrupts::Error;
use strata_interrupts::ioapic::{Ioapic, IoapicState};
use strata_interrupts::test_utils::RecordingBus;

fn refused(change: impl FnOnce(&mut IoapicState)) -> &'static str {
    let mut state = Ioapic::new().state();
    change(&mut state);
    match Ioapic::from_state(&state) {
        Err(Error::InvalidState {
            what: "ioapic",
            field,
        }) => field,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fields_that_no_ioapic_holds_are_refused() {
    assert_eq!(refused(|state| state.id = 16), "id");
    assert_eq!(refused(|state| state.lines = 1 << 24), "lines");
    assert_eq!(refused(|state| state.pending = 1 << 24), "pending");
    assert_eq!(refused(|state| state.entries[23] = 1 << 17), "entries");
    assert_eq!(refused(|state| state.entries[0] = 1 << 12), "entries");
    assert_eq!(
        refused(|state| state.entries[0] = 1 << 14 | 0x30),
        "entries"
    );
    let level_with_edge = |state: &mut IoapicState| {
        state.entries[5] = 1 << 15 | 0x30;
        state.pending = 1 << 5;
    };
    assert_eq!(refused(level_with_edge), "pending");
}

#[test]
fn a_state_survives_serialization_and_sends_what_waited() {
    let mut bus = RecordingBus {
        refuses: true,
        ..Default::default()
    };
    let mut ioapic = Ioapic::new();
    for (register, value) in [(0x12u8, 0x31u32), (0x14, 1 << 15 | 0x32)] {
        ioapic.write(0x00, &[register], &mut bus).unwrap();
        ioapic.write(0x10, &value.to_le_bytes(), &mut bus).unwrap();
    }
    ioapic.set_line(1, true, &mut bus);
    ioapic.set_line(1, false, &mut bus);
    ioapic.set_line(2, true, &mut bus);
    let text = serde_json::to_string(&ioapic.state()).unwrap();
    let state: IoapicState = serde_json::from_str(&text).unwrap();
    let mut restored = Ioapic::from_state(&state).unwrap();
    assert_eq!(restored, ioapic);
    let mut bus = RecordingBus::default();
    restored.resend(&mut bus);
    assert_eq!(
        bus.sent
            .iter()
            .map(|message| message.data & 0xff)
            .collect::<Vec<_>>(),
        [0x31, 0x32]
    );
}
