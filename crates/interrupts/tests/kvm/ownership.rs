//! Who owns a GSI.

use strata_interrupts::{Controller, Error, MsiMessage};

use crate::guest::{Guest, kinds, redirect};

#[test]
fn a_pin_has_one_owner_at_a_time() {
    for kind in kinds() {
        let controller = Guest::new(kind, &[]).controller;
        let line = controller.line(7).unwrap();
        assert!(matches!(
            controller.edge_pin(7),
            Err(Error::GsiInUse { gsi: 7 })
        ));
        assert!(matches!(
            controller.resampled_pin(7),
            Err(Error::GsiInUse { gsi: 7 })
        ));
        drop(line);
        let edge = controller.edge_pin(7).unwrap();
        assert!(matches!(
            controller.line(7),
            Err(Error::GsiInUse { gsi: 7 })
        ));
        drop(edge);
        controller.resampled_pin(7).unwrap();
        assert!(matches!(
            controller.line(24),
            Err(Error::NotAPin { gsi: 24 })
        ));
        assert!(matches!(
            controller.edge_pin(u32::MAX),
            Err(Error::NotAPin { .. })
        ));
        assert!(matches!(
            controller.msi_at(23),
            Err(Error::NotAnMsi { gsi: 23 })
        ));
        assert!(matches!(
            controller.msi_at(u32::MAX),
            Err(Error::NotAnMsi { .. })
        ));
    }
}

#[test]
fn gsis_run_out_with_an_error_and_come_back() {
    for kind in kinds() {
        let controller = Guest::new(kind, &[]).controller;
        let mut all = Vec::new();
        let error = loop {
            match controller.msi() {
                Ok(msi) => all.push(msi),
                Err(error) => break error,
            }
        };
        let Error::NoFreeGsi { limit } = error else {
            panic!("{error}")
        };
        assert_eq!(all.len() as u32, limit - 24);
        let messages: Vec<_> = all
            .iter()
            .map(|msi| {
                (
                    msi.gsi(),
                    MsiMessage {
                        address: 0xfee0_0000,
                        data: 0x40,
                    },
                )
            })
            .collect();
        controller.set_messages(&messages).unwrap();
        all.remove(100);
        assert_eq!(controller.msi().unwrap().gsi(), 124);
    }
}

#[test]
fn a_dropped_owner_interrupts_no_more() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(4, 0x34));
        let edge = guest.controller.edge_pin(4).unwrap();
        guest.boot();
        let event = edge.event_fd().try_clone().unwrap();
        drop(edge);
        event.write(1).unwrap();
        guest.expect_quiet();
        let edge = guest.controller.edge_pin(4).unwrap();
        edge.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x34, "{kind}");
    }
}

#[test]
fn a_dropped_line_is_released() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &redirect(4, 1 << 15 | 0x34));
        guest.boot();
        let line = guest.controller.line(4).unwrap();
        line.set(true).unwrap();
        assert_eq!(guest.interrupt(), 0x34, "{kind}");
        let on_its_way = usize::from(!guest.is_in_service(0x34));
        drop(line);
        assert!(guest.settle() <= on_its_way, "{kind}");
    }
}

#[test]
fn a_vm_has_one_controller() {
    for kind in kinds() {
        let guest = Guest::new(kind, &[]);
        let second = Controller::new(guest.vm.clone(), kind);
        assert!(matches!(second, Err(Error::Create { kind: k, .. }) if k == kind));
    }
}
