//! The payload guest: 64 bits in ring 3, which runs natively on every kind of KVM.

use std::arch::{global_asm, x86_64::_rdtsc};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use strata_vcpu::test_utils::{Irqchip, LongMode, Mode, Recorder, TestVm};
use strata_vcpu::{ExitReason, VcpuThread};
use strata_virtio::test_utils::MockDriver;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::threads;

/// Where the guest has the mock driver's memory, and the queue's notify address.
const RAM: u64 = 16 << 20;
const NOTIFY: u64 = 0x3000_0000;
/// What the guest reads at its start, and what it writes: three times for each batch.
const PARAMETERS: u64 = 0x8_0000;
const LOG: u64 = 1 << 20;
const LOG_ENTRY: usize = 24;
const MEMORY: usize = 2 << 20;

// For each batch: the time, the available index, the kick, the time, the used index, the time.
global_asm!(
    ".pushsection .rodata.request_guest, \"a\"",
    ".globl request_guest, request_guest_end",
    "request_guest:",
    "mov ebx, {parameters}",
    "mov rsi, [rbx]",
    "mov rdi, [rbx + 8]",
    "mov r8, [rbx + 16]",
    "mov r9, [rbx + 24]",
    "mov r10, [rbx + 32]",
    "mov r11, [rbx + 40]",
    "movzx r12d, word ptr [rsi]",
    "2:",
    "add r12d, r10d",
    "rdtsc",
    "mov [r11], eax",
    "mov [r11 + 4], edx",
    "mov [rsi], r12w",
    "mov word ptr [r8], 0",
    "rdtsc",
    "mov [r11 + 8], eax",
    "mov [r11 + 12], edx",
    "3:",
    "pause",
    "cmp [rdi], r12w",
    "jne 3b",
    "rdtsc",
    "mov [r11 + 16], eax",
    "mov [r11 + 20], edx",
    "add r11, {entry}",
    "dec r9",
    "jnz 2b",
    "mov edx, {shutdown}",
    "out dx, al",
    "request_guest_end:",
    ".popsection",
    parameters = const PARAMETERS,
    entry = const LOG_ENTRY,
    shutdown = const Recorder::SHUTDOWN_PORT,
);

unsafe extern "C" {
    static request_guest: u8;
    static request_guest_end: u8;
}

fn code() -> &'static [u8] {
    let (start, end) = (&raw const request_guest, &raw const request_guest_end);
    // SAFETY: both labels are of one contiguous run of code above, which is read-only and lives as
    // long as the program.
    unsafe { std::slice::from_raw_parts(start, end as usize - start as usize) }
}

/// What the batches cost.
pub(crate) struct Cost {
    /// Of each batch: before the kick, after it, and when all of it was done, by the counter.
    pub(crate) log: Vec<[u64; 3]>,
    pub(crate) ticks_per_micro: f64,
    /// CPU time of all threads but the vCPU's.
    pub(crate) cpu: Duration,
}

/// Runs the guest in front of queue 0, which is prepared.
pub(crate) fn run(driver: &mut MockDriver, batch: u16, batches: usize) -> Cost {
    assert!(batches * LOG_ENTRY <= MEMORY - LOG as usize);
    let vm = TestVm::with_memory(Irqchip::Kernel, MEMORY);
    let region = driver.memory().iter().next().unwrap();
    let host = driver.memory().get_host_address(GuestAddress(0)).unwrap();
    let slot = kvm_userspace_memory_region {
        slot: 1,
        guest_phys_addr: RAM,
        memory_size: region.len(),
        userspace_addr: host as u64,
        ..Default::default()
    };
    // SAFETY: the driver owns the memory, and outlives the VM, which ends with this function.
    unsafe { vm.vm().set_user_memory_region(slot) }.unwrap();
    let kick = driver.binder().event(driver.notify_address(0)).unwrap();
    let address = IoEventAddress::Mmio(NOTIFY);
    vm.vm()
        .register_ioevent(&kick, &address, NoDatamatch)
        .unwrap();
    let queue = driver.queue(0);
    let (avail, used) = (queue.avail_ring, queue.used_ring);
    let parameters = [
        RAM + avail + 2,
        RAM + used + 2,
        NOTIFY,
        batches as u64,
        batch.into(),
        LOG,
    ];
    vm.write(PARAMETERS, &parameters.map(u64::to_le_bytes).concat());
    let mode = Mode::Long(LongMode {
        user: true,
        handlers: Vec::new(),
    });
    let vcpu = vm.vcpu_with_code(&mode, code());
    let recorder = Arc::new(vm.recorder());
    let thread = VcpuThread::spawn(vcpu, Arc::clone(&recorder)).unwrap();
    let (cpu, start) = (threads::cpu_without_vcpus(), Instant::now());
    // SAFETY: every x86-64 processor has the counter.
    let first = unsafe { _rdtsc() };
    thread.resume().unwrap();
    assert_eq!(thread.join(), ExitReason::Shutdown);
    // SAFETY: as above.
    let ticks = unsafe { _rdtsc() } - first;
    let elapsed = start.elapsed();
    let cpu = threads::cpu_without_vcpus().saturating_sub(cpu);
    assert_eq!(recorder.accesses(), [], "exits to userspace");
    let mut log = vec![0; batches * LOG_ENTRY];
    vm.read(LOG, &mut log);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let log = log
        .chunks(LOG_ENTRY)
        .map(|entry| [0, 8, 16].map(|at| word(&entry[at..at + 8])));
    Cost {
        log: log.collect(),
        ticks_per_micro: ticks as f64 / (elapsed.as_secs_f64() * 1e6),
        cpu,
    }
}
