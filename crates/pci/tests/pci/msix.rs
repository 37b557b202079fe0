use std::sync::Arc;

use strata_pci::test_utils::{RecordedVector, RecordingSink};
use strata_pci::{Error, MsiMessage, MsiSink, Msix};

const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;

const MESSAGE: MsiMessage = MsiMessage {
    address: 0xfee0_1000,
    data: 0x41,
};
const OPEN: RecordedVector = RecordedVector {
    message: Some(MESSAGE),
    unmasked: true,
};

fn vectors(count: u16) -> (Arc<RecordingSink>, Msix) {
    let sink = Arc::new(RecordingSink::new(count));
    let msix = Msix::new(sink.clone()).unwrap();
    (sink, msix)
}

fn program(msix: &mut Msix, vector: u64, message: MsiMessage, masked: bool) {
    let at = vector * 16;
    let write = |msix: &mut Msix, at, value: u32| msix.write_table(at, &value.to_le_bytes());
    write(msix, at, message.address as u32).unwrap();
    write(msix, at + 4, (message.address >> 32) as u32).unwrap();
    write(msix, at + 8, message.data).unwrap();
    write(msix, at + 12, masked.into()).unwrap();
}

#[test]
fn as_linux_programs_it() {
    let (sink, mut msix) = vectors(3);
    // All masked while the entries are written, then vector by vector.
    msix.set_control(ENABLE | MASK_ALL).unwrap();
    for vector in 0..3 {
        program(&mut msix, vector, MESSAGE, true);
    }
    msix.set_control(ENABLE).unwrap();
    assert_eq!(sink.vector(1), RecordedVector::default());
    msix.write_table(16 + 12, &[0; 4]).unwrap();
    assert_eq!(sink.vector(1), OPEN);
    assert_eq!(sink.vector(0), RecordedVector::default());
    // A new message while it is open, then masked, then all.
    msix.write_table(16 + 8, &[0x55, 0, 0, 0]).unwrap();
    assert_eq!(sink.vector(1).message.unwrap().data, 0x55);
    msix.write_table(16 + 12, &[1, 0, 0, 0]).unwrap();
    assert!(!sink.vector(1).unmasked);
    msix.write_table(16 + 12, &[0; 4]).unwrap();
    msix.set_control(ENABLE | MASK_ALL).unwrap();
    assert!(!sink.vector(1).unmasked);
    msix.set_control(ENABLE).unwrap();
    assert!(sink.vector(1).unmasked);
    msix.set_control(0).unwrap();
    assert!(!sink.vector(1).unmasked);
    assert!(!msix.is_enabled());
}

#[test]
fn the_table_reads_as_it_was_written_in_any_width() {
    let (_, mut msix) = vectors(2);
    let mut table = [0xff; 48];
    msix.read_table(0, &mut table);
    let entry = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    assert_eq!(table[..16], entry, "masked at first");
    assert_eq!(table[16..32], entry);
    assert_eq!(table[32..], [0; 16], "past the end");
    msix.write_table(16, &MESSAGE.address.to_le_bytes())
        .unwrap();
    msix.write_table(26, &[9]).unwrap();
    msix.read_table(16, &mut table[..16]);
    assert_eq!(table[..8], MESSAGE.address.to_le_bytes());
    assert_eq!(table[8..12], [0, 0, 9, 0]);
    let before = msix.state();
    msix.write_table(24, &[0xff; 16]).unwrap();
    msix.write_table(32, &[0xff; 4]).unwrap();
    msix.write_table(u64::MAX, &[0xff; 4]).unwrap();
    assert_eq!(msix.state(), before, "over the end, behind the end");
}

#[test]
fn a_saved_table_is_delivered_again() {
    let (_, mut msix) = vectors(2);
    msix.set_control(ENABLE).unwrap();
    program(&mut msix, 1, MESSAGE, false);
    let json = serde_json::to_string(&msix.state()).unwrap();
    let state = serde_json::from_str(&json).unwrap();

    let (sink, mut restored) = vectors(2);
    restored.set_state(&state, ENABLE).unwrap();
    assert_eq!(sink.vector(1), OPEN);
    assert!(!sink.vector(0).unmasked);
    assert_eq!(restored.state(), msix.state());
    let (_, mut other) = vectors(3);
    assert!(matches!(
        other.set_state(&state, ENABLE),
        Err(Error::State(_))
    ));
}

#[test]
fn pending_bits_are_those_of_masked_vectors() {
    #[derive(Debug)]
    struct Pending(RecordingSink);

    impl MsiSink for Pending {
        fn vectors(&self) -> u16 {
            self.0.vectors()
        }

        fn set_messages(&self, messages: &[(u16, MsiMessage)]) -> Result<(), strata_pci::MsiError> {
            self.0.set_messages(messages)
        }

        fn set_masked(&self, vector: u16, masked: bool) -> Result<(), strata_pci::MsiError> {
            self.0.set_masked(vector, masked)
        }

        fn is_pending(&self, vector: u16) -> bool {
            vector.is_multiple_of(3)
        }

        fn event_fd(&self, vector: u16) -> Option<&vmm_sys_util::eventfd::EventFd> {
            self.0.event_fd(vector)
        }
    }

    let mut msix = Msix::new(Arc::new(Pending(RecordingSink::new(10)))).unwrap();
    let read = |msix: &Msix| {
        let mut bits = [0xff; 8];
        msix.read_pba(0, &mut bits);
        u64::from_le_bytes(bits)
    };
    assert_eq!(read(&msix), 0b10_0100_1001);
    msix.set_control(ENABLE).unwrap();
    program(&mut msix, 3, MESSAGE, false);
    assert_eq!(read(&msix), 0b10_0100_0001, "vector 3 is open");
    let mut far = [0xff; 4];
    msix.read_pba(u64::MAX - 1, &mut far);
    assert_eq!(far[..2], [0, 0]);
}

#[test]
fn a_function_has_at_least_one_vector() {
    let none = Msix::new(Arc::new(RecordingSink::new(0)));
    assert!(matches!(none, Err(Error::Vectors { vectors: 0 })));
    let many = Msix::new(Arc::new(RecordingSink::new(2049)));
    assert!(many.is_err());
}
