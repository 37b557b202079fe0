//! A machine that moves to a new VM with an interrupt on its way.

use strata_interrupts::{
    ChipState, ClockPolicy, ClockState, ControllerState, Error, Kind, MsiMessage,
};

use crate::guest::{Guest, LEVEL, MASKED, kinds, redirect};

#[test]
fn a_level_asserted_and_not_yet_ended_moves_along() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(10, LEVEL | 0x3a));
        let line = guest.controller.line(10).unwrap();
        guest.boot();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x3a, "{kind}");

        let (mut guest, line) = guest.moved(|controller| controller.line(10).unwrap());
        line.set(true).unwrap();
        for _ in 0..3 {
            assert_eq!(guest.interrupt(), 0x3a, "{kind}: still asserted");
        }
        line.set(false).unwrap();
        assert!(guest.settle() <= 1, "{kind}");
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x3a, "{kind}");
    }
}

#[test]
fn an_end_lost_between_two_vms_does_not_silence_the_pin() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::Split) {
        let mut guest = Guest::new(kind, &redirect(10, LEVEL | 0x3a));
        let line = guest.controller.line(10).unwrap();
        guest.boot();
        let mut state = guest.controller.state().unwrap();
        let ChipState::Split(ioapic) = &mut state.chips else {
            unreachable!()
        };
        let remote_irr = 1 << 14;
        ioapic.entries[10] |= remote_irr;
        guest.controller.set_state(&state).unwrap();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x3a);
    }
}

#[test]
fn a_masked_and_pending_msi_moves_along() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        let messages = [0x51, 0x52].map(|data| MsiMessage {
            address: 0xfee0_0000,
            data,
        });
        let claim = |guest: &Guest| [25, 31].map(|gsi| guest.controller.msi_at(gsi).unwrap());
        let msis = claim(&guest);
        guest
            .controller
            .set_messages(&[(25, messages[0]), (31, messages[1])])
            .unwrap();
        guest.controller.set_masked(31, false).unwrap();
        guest.boot();
        msis[0].trigger().unwrap();

        let (mut guest, msis) =
            guest.moved(|controller| [25, 31].map(|gsi| controller.msi_at(gsi).unwrap()));
        guest.expect_quiet();
        msis[1].trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x52, "{kind}");
        assert!(guest.controller.is_pending(25).unwrap(), "{kind}");
        guest.controller.set_masked(25, false).unwrap();
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
        guest.expect_quiet();
    }
}

#[test]
fn an_edge_behind_a_mask_moves_along() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::Split) {
        let mut guest = Guest::new(kind, &redirect(4, MASKED | 0x34));
        let serial = guest.controller.edge_pin(4).unwrap();
        guest.boot();
        serial.trigger().unwrap();

        let (mut guest, serial) = guest.moved(|controller| controller.edge_pin(4).unwrap());
        guest.expect_quiet();
        for (address, value) in redirect(4, 0x34) {
            guest
                .controller
                .mmio_write(address & 0xfff, &value.to_le_bytes())
                .unwrap();
        }
        assert_eq!(guest.interrupt(), 0x34);
        guest.expect_quiet();
        serial.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x34);
    }
}

#[test]
fn saving_changes_nothing_and_going_back_drops_what_came_after() {
    for kind in kinds() {
        let guest = Guest::new(kind, &[]);
        let msi = guest.controller.msi().unwrap();
        let edge = guest.controller.edge_pin(4).unwrap();
        let before = guest.controller.state().unwrap();
        msi.trigger().unwrap();
        edge.trigger().unwrap();
        let after = guest.controller.state().unwrap();
        assert!(after.msis[0].pending, "{kind}");
        if let ChipState::Split(ioapic) = &after.chips {
            assert_eq!(ioapic.pending, 1 << 4);
        }
        assert_eq!(guest.controller.state().unwrap(), after, "{kind}");
        guest.controller.set_state(&before).unwrap();
        assert_eq!(guest.controller.state().unwrap(), before, "{kind}");
    }
}

fn refusal(guest: &Guest, change: impl FnOnce(&mut ControllerState)) -> Error {
    let mut state = guest.controller.state().unwrap();
    change(&mut state);
    guest.controller.set_state(&state).unwrap_err()
}

#[test]
fn a_state_of_another_machine_is_refused() {
    for kind in kinds() {
        let guest = Guest::new(kind, &[]);
        let _msi = guest.controller.msi().unwrap();
        let other = match kind {
            Kind::InKernel => Kind::Split,
            Kind::Split => Kind::InKernel,
        };
        let chips = Guest::new(other, &[]).controller.state().unwrap().chips;
        let error = refusal(&guest, |state| state.chips = chips);
        assert!(matches!(error, Error::WrongKind { kind: k } if k == kind));
        let error = refusal(&guest, |state| state.msis[0].gsi += 1);
        assert!(matches!(error, Error::InvalidState { field: "msis", .. }));
        let error = refusal(&guest, |state| state.msis.clear());
        assert!(matches!(error, Error::InvalidState { field: "msis", .. }));
        let error = refusal(&guest, |state| state.msis.push(state.msis[0]));
        assert!(matches!(error, Error::InvalidState { field: "msis", .. }));
    }
}

#[test]
fn chips_that_no_machine_has_are_refused() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::InKernel) {
        let guest = Guest::new(kind, &[]);
        let field = |change: fn(&mut strata_interrupts::KernelChips)| {
            let error = refusal(&guest, |state| match &mut state.chips {
                ChipState::InKernel(chips) => change(chips),
                ChipState::Split(_) => unreachable!(),
            });
            match error {
                Error::InvalidState { field, .. } => field,
                error => panic!("{error}"),
            }
        };
        assert_eq!(field(|chips| chips.ioapic.base_address = 0), "base_address");
        assert_eq!(field(|chips| chips.ioapic.select = 0x100), "select");
        assert_eq!(field(|chips| chips.ioapic.id = 16), "id");
        assert_eq!(field(|chips| chips.ioapic.irr = 1 << 24), "irr");
        assert_eq!(
            field(|chips| chips.pics[1].priority_add = 8),
            "priority_add"
        );
        assert_eq!(field(|chips| chips.pics[0].init_state = 4), "init_state");
    }
}

#[test]
fn the_clock_continues_where_it_stood() {
    for kind in kinds() {
        let guest = Guest::new(kind, &[]);
        let hour = 3_600_000_000_000;
        let saved = ClockState {
            clock_ns: 7 * hour,
            ..ClockState::read(&guest.vm).unwrap()
        };
        saved.write(&guest.vm, ClockPolicy::StandStill).unwrap();
        let clock = ClockState::read(&guest.vm).unwrap().clock_ns;
        assert!((7 * hour..8 * hour).contains(&clock), "{kind}: {clock}");
        let earlier = ClockState {
            realtime_ns: saved.realtime_ns - 2 * hour,
            ..saved
        };
        earlier.write(&guest.vm, ClockPolicy::RunOn).unwrap();
        let clock = ClockState::read(&guest.vm).unwrap().clock_ns;
        assert!((9 * hour..10 * hour).contains(&clock), "{kind}: {clock}");
    }
}
