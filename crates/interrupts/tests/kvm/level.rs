//! Levels at pins, and the ends of their interrupts.

use strata_interrupts::Kind;

use crate::guest::{Guest, LEVEL, MASKED, kinds, redirect};

#[test]
fn a_level_interrupts_until_it_is_released() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(10, LEVEL | 0x3a));
        let line = guest.controller.line(10).unwrap();
        guest.boot();
        line.set(true).unwrap();
        for _ in 0..4 {
            assert_eq!(guest.interrupt(), 0x3a, "{kind}");
        }
        let on_its_way = usize::from(!guest.is_in_service(0x3a));
        line.set(false).unwrap();
        let late = guest.settle();
        assert!(late <= on_its_way, "{kind}: {late} after the release");
        let expected = if kind == Kind::Split { 4 + late } else { 0 };
        assert_eq!(guest.ends, expected, "{kind}: ends that came to userspace");
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x3a, "{kind}");
    }
}

#[test]
fn a_level_that_fell_behind_the_mask_is_forgotten_and_one_that_stayed_is_not() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::Split) {
        let mut guest = Guest::new(kind, &redirect(10, MASKED | LEVEL | 0x3a));
        let line = guest.controller.line(10).unwrap();
        guest.boot();
        let unmask = |guest: &Guest, bits: u64| {
            for (address, value) in redirect(10, bits) {
                guest
                    .controller
                    .mmio_write(address & 0xfff, &value.to_le_bytes())
                    .unwrap();
            }
        };
        line.set(true).unwrap();
        line.set(false).unwrap();
        unmask(&guest, LEVEL | 0x3a);
        guest.expect_quiet();
        unmask(&guest, MASKED | LEVEL | 0x3a);
        line.set(true).unwrap();
        guest.expect_quiet();
        unmask(&guest, LEVEL | 0x3a);
        assert_eq!(guest.interrupt(), 0x3a);
    }
}

#[test]
fn an_interrupt_masked_before_its_end_is_ended_all_the_same() {
    for kind in kinds().into_iter().filter(|&kind| kind == Kind::Split) {
        let mut guest = Guest::new(kind, &redirect(10, LEVEL | 0x3a));
        let line = guest.controller.line(10).unwrap();
        guest.boot();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x3a);
        let write = |guest: &Guest, bits: u64| {
            for (address, value) in redirect(10, bits) {
                guest
                    .controller
                    .mmio_write(address & 0xfff, &value.to_le_bytes())
                    .unwrap();
            }
        };
        let on_its_way = usize::from(!guest.is_in_service(0x3a));
        write(&guest, MASKED | LEVEL | 0x3a);
        let late = guest.settle();
        assert!(late <= on_its_way, "{late} behind the mask");
        assert_eq!(guest.ends, 1 + late);
        write(&guest, LEVEL | 0x3a);
        assert_eq!(guest.interrupt(), 0x3a);
    }
}

#[test]
fn the_owner_of_a_resampled_pin_hears_of_each_end() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(11, LEVEL | 0x3b));
        let intx = guest.controller.resampled_pin(11).unwrap();
        guest.boot();
        for _ in 0..3 {
            intx.trigger().unwrap();
            assert_eq!(guest.interrupt(), 0x3b, "{kind}");
            let resample = intx.resample_fd().unwrap();
            if guest.is_in_service(0x3b) {
                resample.read().expect_err("not ended yet");
            }
            guest.expect_quiet();
            assert_eq!(resample.read().unwrap(), 1, "{kind}");
        }
    }
}
