//! Edges at pins.

use strata_interrupts::Kind;

use crate::guest::{Guest, MASKED, kinds, redirect};

#[test]
fn an_edge_interrupts_once() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(4, 0x34));
        let serial = guest.controller.edge_pin(4).unwrap();
        guest.boot();
        guest.expect_quiet();
        for _ in 0..3 {
            serial.trigger().unwrap();
            assert_eq!(guest.interrupt(), 0x34, "{kind}");
            guest.expect_quiet();
        }
    }
}

#[test]
fn a_pin_claimed_after_the_guest_programmed_it_works() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(9, 0x39));
        guest.boot();
        let late = guest.controller.edge_pin(9).unwrap();
        late.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x39, "{kind}");
    }
}

#[test]
fn a_line_at_an_edge_pin_interrupts_when_it_rises() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(5, 0x35));
        let line = guest.controller.line(5).unwrap();
        guest.boot();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x35, "{kind}");
        line.set(true).unwrap();
        guest.expect_quiet();
        line.set(false).unwrap();
        guest.expect_quiet();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x35, "{kind}");
    }
}

#[test]
fn an_edge_outlives_the_mask_of_the_split_ioapic() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::Split) {
        let mut guest = Guest::new(kind, &redirect(4, MASKED | 0x34));
        let serial = guest.controller.edge_pin(4).unwrap();
        guest.boot();
        serial.trigger().unwrap();
        serial.trigger().unwrap();
        guest.expect_quiet();
        for (address, value) in redirect(4, 0x44) {
            let offset = address & 0xfff;
            guest
                .controller
                .mmio_write(offset, &value.to_le_bytes())
                .unwrap();
        }
        assert_eq!(guest.interrupt(), 0x44);
        guest.expect_quiet();
        serial.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x44);
    }
}
