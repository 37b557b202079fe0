//! Runs any bytes as a sequence of accesses against both models: the fuzz target's body, which
//! the stored inputs and the property tests share.

use strata_interrupts::ioapic::Ioapic;
use strata_interrupts::test_utils::RecordingBus;

use crate::reference::Reference;

/// Six bytes are one step: what, where, and a value. Whatever is sent, told or read must be the
/// same from both models, and the state must survive being saved after every step.
pub(crate) fn run(input: &[u8]) {
    let mut ioapic = Ioapic::new();
    let mut bus = RecordingBus::default();
    let mut reference = Reference::new();
    for step in input.chunks_exact(6) {
        let &[what, place, ref value @ ..] = step else {
            return;
        };
        match what % 9 {
            0 => write(&mut ioapic, &mut reference, &mut bus, 0x00, &[place]),
            1 => write(&mut ioapic, &mut reference, &mut bus, 0x10, value),
            2 => write(&mut ioapic, &mut reference, &mut bus, 0x40, &value[..1]),
            3 => {
                ioapic.set_line(place, value[0] & 1 != 0, &mut bus);
                reference.set_line(place, value[0] & 1 != 0);
            }
            4 => {
                ioapic.eoi(value[0], &mut bus);
                reference.eoi(value[0]);
            }
            5 => {
                bus.refuses = value[0] & 1 != 0;
                reference.bus.refuses = bus.refuses;
            }
            6 => {
                ioapic.resend(&mut bus);
                reference.resend();
            }
            7 => {
                let width = usize::from(value[0] % 5);
                let bytes = &[value[1], value[2], value[3], what][..width];
                write(
                    &mut ioapic,
                    &mut reference,
                    &mut bus,
                    u64::from(place),
                    bytes,
                );
            }
            _ => {
                let (offset, width) = (u64::from(place), usize::from(value[0] % 9));
                let mut data = vec![0xff; width];
                ioapic.read(offset, &mut data);
                assert_eq!(data, reference.read(offset, width), "read at {offset:#x}");
            }
        }
        assert_eq!(bus, reference.bus, "after {step:x?}");
        let mut window = [0; 4];
        ioapic.read(0x10, &mut window);
        assert_eq!(window[..], reference.read(0x10, 4), "after {step:x?}");
        let restored = Ioapic::from_state(&ioapic.state());
        assert_eq!(restored.ok().as_ref(), Some(&ioapic), "after {step:x?}");
    }
}

fn write(
    ioapic: &mut Ioapic,
    reference: &mut Reference,
    bus: &mut RecordingBus,
    offset: u64,
    data: &[u8],
) {
    ioapic.write(offset, data, bus).unwrap();
    reference.write(offset, data);
}
