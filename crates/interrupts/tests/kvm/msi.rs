//! Message-signalled interrupts.

use kvm_bindings::{KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap};
use strata_interrupts::{Error, MsiMessage};

use crate::guest::{Guest, kinds};

const fn vector(vector: u8) -> MsiMessage {
    MsiMessage {
        address: 0xfee0_0000,
        data: vector as u32,
    }
}

#[test]
fn an_msi_interrupts_through_its_eventfd() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        let msi = guest.controller.msi().unwrap();
        guest.boot();
        guest
            .controller
            .set_messages(&[(msi.gsi(), vector(0x51))])
            .unwrap();
        guest.controller.set_masked(msi.gsi(), false).unwrap();
        msi.event_fd().write(1).unwrap();
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
        guest
            .controller
            .set_messages(&[(msi.gsi(), vector(0x52))])
            .unwrap();
        msi.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x52, "{kind}");
        guest.expect_quiet();
    }
}

#[test]
fn a_message_sent_directly_interrupts() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        guest.boot();
        assert!(guest.controller.send(vector(0x53)).unwrap(), "{kind}");
        assert_eq!(guest.interrupt(), 0x53, "{kind}");
        let nobody = MsiMessage {
            address: 0xfee0_7000,
            data: 0x53,
        };
        assert!(!guest.controller.send(nobody).unwrap_or(false), "{kind}");
        guest.expect_quiet();
    }
}

#[test]
fn what_a_mask_hides_comes_once_when_it_goes() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        let msi = guest.controller.msi().unwrap();
        let gsi = msi.gsi();
        guest
            .controller
            .set_messages(&[(gsi, vector(0x51))])
            .unwrap();
        guest.boot();
        msi.trigger().unwrap();
        msi.trigger().unwrap();
        guest.expect_quiet();
        assert!(guest.controller.is_pending(gsi).unwrap(), "{kind}");
        guest.controller.set_masked(gsi, false).unwrap();
        assert!(!guest.controller.is_pending(gsi).unwrap(), "{kind}");
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
        guest.expect_quiet();
        guest.controller.set_masked(gsi, true).unwrap();
        guest.controller.set_masked(gsi, false).unwrap();
        guest.expect_quiet();
    }
}

#[test]
fn an_unmasked_interrupt_waits_for_its_first_message() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        let msi = guest.controller.msi().unwrap();
        guest.boot();
        guest.controller.set_masked(msi.gsi(), false).unwrap();
        msi.trigger().unwrap();
        guest.expect_quiet();
        guest
            .controller
            .set_messages(&[(msi.gsi(), vector(0x51))])
            .unwrap();
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
    }
}

#[test]
fn messages_change_all_or_none() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        let msi = guest.controller.msi().unwrap();
        let gsi = msi.gsi();
        guest
            .controller
            .set_messages(&[(gsi, vector(0x51))])
            .unwrap();
        guest.controller.set_masked(gsi, false).unwrap();
        guest.boot();
        let foreign = guest
            .controller
            .set_messages(&[(gsi, vector(0x52)), (gsi + 1, vector(0x53))]);
        assert!(matches!(foreign, Err(Error::NotAnMsi { gsi: g }) if g == gsi + 1));
        let pin = guest
            .controller
            .set_messages(&[(gsi, vector(0x52)), (4, vector(0x53))]);
        assert!(matches!(pin, Err(Error::NotAnMsi { gsi: 4 })));
        msi.trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
    }
}

#[test]
fn a_message_that_kvm_refuses_changes_none() {
    for kind in kinds() {
        let mut guest = Guest::new(kind, &[]);
        // With wide ids the low byte of the upper address is reserved, and KVM checks it.
        let mut wide_ids = kvm_enable_cap {
            cap: KVM_CAP_X2APIC_API,
            ..Default::default()
        };
        wide_ids.args[0] = u64::from(KVM_X2APIC_API_USE_32BIT_IDS);
        guest.vm.enable_cap(&wide_ids).unwrap();
        let msis = [
            guest.controller.msi().unwrap(),
            guest.controller.msi().unwrap(),
        ];
        let gsis = [msis[0].gsi(), msis[1].gsi()];
        guest
            .controller
            .set_messages(&[(gsis[0], vector(0x51))])
            .unwrap();
        guest.controller.set_masked(gsis[0], false).unwrap();
        guest.boot();
        let before = guest.controller.state().unwrap();
        let reserved = MsiMessage {
            address: 0x1_fee0_0000,
            data: 0x53,
        };
        let refused = guest
            .controller
            .set_messages(&[(gsis[0], vector(0x52)), (gsis[1], reserved)]);
        assert!(
            matches!(refused, Err(Error::SetRoutes { .. })),
            "{kind}: {refused:?}"
        );
        assert_eq!(guest.controller.state().unwrap(), before, "{kind}");
        guest
            .controller
            .set_messages(&[(gsis[1], vector(0x54))])
            .unwrap();
        msis[0].trigger().unwrap();
        assert_eq!(guest.interrupt(), 0x51, "{kind}");
    }
}
