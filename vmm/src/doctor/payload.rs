//! The proof: a tiny guest that runs on this host.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use strata_interrupts::{Controller, Kind};
use strata_memory::{GuestRam, MemorySize, RamConfig};
use strata_vcpu::{Action, EntryPoint, ExitHandler, ExitReason, Host, Protocol, Vcpu, VcpuThread};
use vm_memory::{Bytes, GuestAddress};

use super::{Finding, Verdict};
use crate::arch;
use crate::error::{Chain, Error};
use crate::machine::map_ram;

/// Where the guest's code lies and starts.
const CODE_ADDRESS: u64 = 0x1000;

/// How often the guest writes to [`COUNT_PORT`].
const WRITES: u32 = 1000;
const COUNT_PORT: u16 = 0xe9;
const DONE_PORT: u16 = 0xea;

/// In 32-bit protected mode without paging:
/// `mov ecx, 1000; mov dx, 0xe9; again: out dx, al; loop again; mov dx, 0xea; out dx, al; hlt`.
const CODE: [u8; 18] = [
    0xb9, 0xe8, 0x03, 0x00, 0x00, 0x66, 0xba, 0xe9, 0x00, 0xee, 0xe2, 0xfd, 0x66, 0xba, 0xea, 0x00,
    0xee, 0xf4,
];

/// Runs it.
pub(super) fn examine() -> Finding {
    let name = "tiny guest";
    match run() {
        Ok(exit) => {
            let found = format!(
                "ran; an exit to strata and back takes {:.1} µs",
                micros(exit)
            );
            Finding::new(name, Verdict::Ok, found, "")
        }
        Err(problem) => Finding::new(name, Verdict::Missing, "does not run", problem),
    }
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// Counts the guest's writes, and takes the time from the first to the last.
#[derive(Default)]
struct Counter {
    writes: AtomicU32,
    first: OnceLock<Instant>,
    last: OnceLock<Instant>,
}

impl ExitHandler for Counter {
    fn pio_read(&self, _port: u16, _data: &mut [u8]) {}

    fn pio_write(&self, port: u16, _data: &[u8]) -> Action {
        match port {
            COUNT_PORT => {
                self.first.get_or_init(Instant::now);
                self.writes.fetch_add(1, Ordering::Relaxed);
                Action::Resume
            }
            DONE_PORT => {
                self.last.get_or_init(Instant::now);
                Action::Shutdown
            }
            _ => Action::Resume,
        }
    }

    fn mmio_read(&self, _addr: u64, _data: &mut [u8]) {}

    fn mmio_write(&self, _addr: u64, _data: &[u8]) -> Action {
        Action::Resume
    }
}

fn run() -> Result<Duration, String> {
    let (ram, vcpu, _vm) = prepare().map_err(|error| Chain(&error).to_string())?;
    let counter = Arc::new(Counter::default());
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&counter)).map_err(|e| e.to_string())?;
    thread.resume().map_err(|error| error.to_string())?;
    let reason = thread.join();
    drop(ram);
    if reason != ExitReason::Shutdown {
        return Err(reason.to_string());
    }
    let writes = counter.writes.load(Ordering::Relaxed);
    match (counter.first.get(), counter.last.get()) {
        (Some(first), Some(last)) if writes == WRITES => Ok(last.duration_since(*first) / WRITES),
        _ => Err(format!("{writes} of {WRITES} port writes arrived")),
    }
}

fn prepare() -> Result<(GuestRam, Vcpu, Arc<kvm_ioctls::VmFd>), Error> {
    let host = Host::open()?;
    let config = RamConfig::new(MemorySize::new(2 << 20));
    let ram = GuestRam::new(&config, &arch::RAM_LAYOUT)?;
    ram.memory()
        .write_slice(&CODE, GuestAddress(CODE_ADDRESS))
        .map_err(Error::GuestMemory)?;
    let vm = host.kvm().create_vm().map_err(|source| Error::Kvm {
        what: "create a machine",
        source,
    })?;
    let vm = Arc::new(vm);
    arch::prepare_vm(&vm)?;
    Controller::new(Arc::clone(&vm), Kind::InKernel)?;
    map_ram(&vm, &ram)?;
    let mut vcpu = Vcpu::new(&vm, 0)?;
    let entry = EntryPoint {
        protocol: Protocol::Pvh,
        rip: CODE_ADDRESS,
        arg: 0,
    };
    vcpu.boot(&entry, 0)?;
    Ok((ram, vcpu, vm))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_counts_to_what_is_expected() {
        assert_eq!(
            u32::from_le_bytes([CODE[1], CODE[2], CODE[3], CODE[4]]),
            WRITES
        );
        let finding = examine();
        assert_eq!(finding.verdict, Verdict::Ok, "{finding:?}");
    }
}
