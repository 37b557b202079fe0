//! Configuration space as memory, so that guests read it without an exit.
//!
//! Most of what a guest does with a PCI bus is reading its configuration spaces: some hundred times
//! for a few devices. They change only when the guest writes them. So the ECAM window can be memory
//! that the guest may read and not write (a read-only memory slot of KVM): writes come to the
//! [`Bus`](crate::Bus), which then puts the new bytes into the memory.

use std::ops::Range;

use crate::function::Function;

/// Bytes of a function's configuration space that are not always zero.
pub(crate) const SIZE: u16 = 256;

/// The memory behind the ECAM window. A function has 4096 bytes of it, at its slot's number
/// times 32 KiB, of which those behind the first 256 stay zero.
///
/// Calls for one slot come one at a time.
pub trait ConfigImage: Send + Sync {
    /// Puts `data` at `offset` of the function in `slot`. `offset + data.len()` is at most 256.
    fn write(&self, slot: u8, offset: u16, data: &[u8]);

    /// Makes `slot` read as a slot without a function: as ones, in its first bytes at least.
    fn clear(&self, slot: u8);
}

/// Copies registers of a function into the image.
pub(crate) fn refresh(
    image: &dyn ConfigImage,
    slot: u8,
    function: &dyn Function,
    registers: Range<u16>,
) {
    let mut bytes = [0; SIZE as usize];
    let Some(bytes) = bytes.get_mut(usize::from(registers.start)..usize::from(registers.end))
    else {
        return;
    };
    if !bytes.is_empty() {
        function.read_config(registers.start, bytes);
        image.write(slot, registers.start, bytes);
    }
}
