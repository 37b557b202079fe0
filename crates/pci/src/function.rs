//! What a bus knows of the function in a slot.

use crate::bar::{Bar, BarRange};

/// A PCI function. Every call comes from a vCPU's exit: it must not block, and any offset and width
/// may come.
pub trait Function: Send + Sync {
    /// Reads configuration space at `offset`, below 4096.
    fn read_config(&self, offset: u16, data: &mut [u8]);

    /// Writes configuration space at `offset`, below 4096.
    fn write_config(&self, offset: u16, data: &[u8]);

    /// Calls `each` for every BAR that there is, decoded or not, with its index: for whoever lists
    /// them.
    fn bars(&self, each: &mut dyn FnMut(u8, Bar));

    /// Calls `each` for every BAR that is decoded now. The bus asks after each write to command or
    /// BAR registers.
    fn ranges(&self, each: &mut dyn FnMut(BarRange));

    /// Reads in a BAR.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);

    /// Writes in a BAR.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]);

    /// Resets the function with its device, as RST# does (PCI Local Bus 3.0, 2.2.1): registers are
    /// as they were at first, BARs at 0. No vCPU runs meanwhile, so that this may wait.
    fn reset(&self);

    /// Called after the function was taken from its bus: no access comes any more, but those that
    /// are on their way.
    fn removed(&self) {}
}
