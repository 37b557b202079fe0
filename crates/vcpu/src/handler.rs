use crate::report::ExitReason;

/// What a vCPU does after its handler served a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// Go on running the guest.
    Resume,
    /// End this vCPU with [`ExitReason::Shutdown`].
    Shutdown,
    /// End this vCPU with [`ExitReason::Reset`].
    Reset,
}

/// Serves the exits of all vCPUs of a machine, on their threads.
///
/// Addresses, ports and data come from the guest and may be anything. A read that nothing answers
/// leaves `data` filled with ones, as on a bus without a device: it is so filled on entry.
///
/// An implementation should not block: a vCPU is paused only between two exits.
pub trait ExitHandler: Send + Sync + 'static {
    /// `in` from `port`; `data` has 1, 2 or 4 bytes, little endian.
    fn pio_read(&self, port: u16, data: &mut [u8]);

    /// `out` to `port`; `data` has 1, 2 or 4 bytes, little endian.
    fn pio_write(&self, port: u16, data: &[u8]) -> Action;

    /// A load of 1 to 8 bytes from the guest-physical address `addr`, where there is no memory.
    fn mmio_read(&self, addr: u64, data: &mut [u8]);

    /// A store of 1 to 8 bytes to the guest-physical address `addr`, where there is no memory.
    fn mmio_write(&self, addr: u64, data: &[u8]) -> Action;

    /// End of interrupt for a level-triggered vector, with the split interrupt controller.
    fn ioapic_eoi(&self, _vector: u8) {}

    /// Copies guest memory at `gpa` for the report of an abnormal exit; false where there is none.
    fn read_guest(&self, _gpa: u64, _out: &mut [u8]) -> bool {
        false
    }

    /// The vCPU has ended and will run no more. Called last, on its thread.
    fn ended(&self, _vcpu: u32, _reason: &ExitReason) {}
}
