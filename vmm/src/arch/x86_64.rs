//! The x86-64 machine: a PC without what a PC has for history's sake.
//!
//! ACPI hardware-reduced: no PIT, no PIC, no keyboard controller. Linux finds a serial port, a power
//! button, a reset register and a PCI bus with virtio devices, and probes for nothing else.

use std::ops::Range;

use kvm_bindings::{Msrs, kvm_msr_entry};
use kvm_ioctls::VmFd;
use strata_boot::acpi::{self, Aml, Ecam, GenerationId, IoApic, Platform, PowerRegisters, Pvpanic};
use strata_boot::arch::x86_64::layout as guest;
use strata_legacy::{AcpiPower, layout};
use strata_memory::{GuestMemory, RamLayout};
use strata_pci::BusLayout;
use strata_pci::acpi::{HotPlugAml, RootBus};
use strata_vcpu::arch::disable_pmu;
use strata_vcpu::{CpuidConfig, EntryPoint, Host, Protocol, Vcpu};
use vm_memory::{Bytes, GuestAddress};

use crate::config::MachineConfig;
use crate::error::Error;
use crate::sys;

/// Guest RAM ends below, and goes on behind, the addresses of 32-bit devices: 3 to 4 GiB.
pub const RAM_LAYOUT: RamLayout = RamLayout {
    low_end: 0xc000_0000,
    high_start: 1 << 32,
};

/// The power button's interrupt.
pub const POWER_BUTTON_IRQ: u32 = 5;

/// The interrupt of a new generation identifier.
pub const GENERATION_ID_IRQ: u32 = 6;

/// The interrupt that tells of filled slots and of removals.
pub const HOT_PLUG_IRQ: u32 = 7;

/// The first I/O port of hot-plug's registers.
pub const HOT_PLUG_PORT: u16 = 0x610;

/// The slots that can be filled and emptied while the guest runs: all but the host bridge's. What
/// the machine starts with can be taken out, too.
pub const HOT_PLUG_SLOTS: u32 = !1;

/// Addresses that are neither RAM for the kernel nor firmware tables: the generation identifier's
/// page, and the ECAM window.
pub const RESERVED: [Range<u64>; 2] = [
    guest::GENERATION_ID..guest::GENERATION_ID + 0x1000,
    PCI_LAYOUT.ecam..PCI_LAYOUT.ecam + BusLayout::ECAM_SIZE,
];

/// The PCI bus between RAM and the APICs, and above all RAM, where CPUs with 39 address bits reach.
pub const PCI_LAYOUT: BusLayout = BusLayout {
    ecam: 0xe000_0000,
    mem32: 0xc000_0000..0xe000_0000,
    mem64: 1 << 38..1 << 39,
};

/// The offset in the ECAM window, if `addr` is in it.
pub fn ecam_offset(addr: u64) -> Option<u64> {
    let offset = addr.wrapping_sub(PCI_LAYOUT.ecam);
    (offset < BusLayout::ECAM_SIZE).then_some(offset)
}

/// Three pages that VT-x hosts without unrestricted guests need, out of the way of RAM and
/// devices (KVM API, KVM_SET_TSS_ADDR).
const TSS_ADDR: usize = 0xfffb_d000;

/// What KVM needs to know of a machine before it has vCPUs.
///
/// # Errors
/// [`Error::Kvm`] when KVM refuses.
pub fn prepare_vm(vm: &VmFd) -> Result<(), Error> {
    vm.set_tss_address(TSS_ADDR).map_err(|source| Error::Kvm {
        what: "set the task state segment's address",
        source,
    })?;
    disable_pmu(vm)?;
    Ok(())
}

/// The machine as its firmware tables describe it. A PCI bus that has no device is left out, since
/// Linux would look into all its slots.
fn platform(config: &MachineConfig) -> Platform {
    Platform {
        cpus: (0..config.cpus).collect(),
        local_apic: 0xfee0_0000,
        io_apic: IoApic {
            id: 0,
            address: 0xfec0_0000,
            gsi_base: 0,
        },
        serial: vec![acpi::Serial {
            port: layout::COM1,
            gsi: layout::COM1_IRQ,
        }],
        power: PowerRegisters {
            sleep_control: power_port(AcpiPower::SLEEP_CONTROL),
            sleep_status: power_port(AcpiPower::SLEEP_STATUS),
            reset: (power_port(AcpiPower::RESET), AcpiPower::RESET_VALUE),
        },
        power_button: Some(POWER_BUTTON_IRQ),
        events: vec![acpi::Event {
            gsi: GENERATION_ID_IRQ,
            device: GenerationId::PATH.to_owned(),
            value: GenerationId::CHANGED,
        }],
        ecam: config.has_pci().then_some(Ecam {
            base: PCI_LAYOUT.ecam,
            segment: 0,
            first_bus: 0,
            last_bus: 0,
        }),
        ..Platform::default()
    }
}

const fn power_port(offset: u64) -> u16 {
    layout::ACPI_POWER + offset as u16
}

/// Where the processor, and who jumps there by hand, starts a PC's firmware: F000:FFF0.
const RESET_VECTOR: u64 = 0xf_fff0;

/// Asks the reset port for a reset: `mov al, 0xfe; out 0x64, al; again: hlt; jmp again`.
///
/// A Linux on hardware-reduced ACPI takes its firmware for EFI when it reboots; having found no
/// EFI to call it jumps to the reset vector in real mode (arch/x86/kernel/reboot.c), past the
/// ACPI reset register.
const RESET_STUB: [u8; 7] = [0xb0, 0xfe, 0xe6, layout::RESET_PORT as u8, 0xf4, 0xeb, 0xfd];

/// Writes the firmware: ACPI tables, and what stands at the reset vector. Returns the
/// guest-physical address of the first table, the RSDP.
///
/// # Errors
/// [`Error::Boot`], [`Error::GuestMemory`].
pub fn write_firmware(config: &MachineConfig, memory: &GuestMemory) -> Result<u64, Error> {
    let room = usize::try_from(RESET_VECTOR - guest::ACPI).unwrap_or_default();
    let pvpanic = Pvpanic {
        port: layout::PVPANIC,
    };
    let generation_id = GenerationId {
        address: guest::GENERATION_ID,
    };
    let pci = RootBus {
        layout: PCI_LAYOUT,
        ports: true,
        hot_plug: config.has_hot_plug().then_some(HotPlugAml {
            port: HOT_PLUG_PORT,
            gsi: HOT_PLUG_IRQ,
            slots: HOT_PLUG_SLOTS,
        }),
    };
    let mut devices: Vec<&dyn Aml> = vec![&pvpanic, &generation_id];
    if config.has_pci() {
        devices.push(&pci);
    }
    let tables = platform(config).tables(&devices, guest::ACPI, room.min(guest::ACPI_SIZE))?;
    tables.write(memory)?;
    memory
        .write_slice(&RESET_STUB, GuestAddress(RESET_VECTOR))
        .and_then(|()| memory.write_slice(&sys::random(), GuestAddress(guest::GENERATION_ID)))
        .map_err(Error::GuestMemory)?;
    Ok(tables.rsdp)
}

/// Makes the vCPUs, the first of which starts at `entry`.
///
/// # Errors
/// [`Error::Vcpu`].
pub fn create_vcpus(
    host: &Host,
    vm: &VmFd,
    config: &MachineConfig,
    entry: &strata_boot::Entry,
) -> Result<Vec<Vcpu>, Error> {
    let mut vcpus: Vec<Vcpu> = (0..config.cpus)
        .map(|index| Vcpu::new(vm, index))
        .collect::<Result<_, _>>()?;
    let mut cpuid = CpuidConfig::new(strata_vcpu::Topology::cores(config.cpus));
    cpuid.model = config.cpu;
    cpuid.tsc_khz = vcpus.first().and_then(Vcpu::tsc_khz);
    // Linux then starts with some 50 exits less; no device here combines writes.
    cpuid.mtrr = false;
    let cpuid = cpuid.build(&host.supported_cpuid()?)?;
    for vcpu in &mut vcpus {
        vcpu.set_cpuid(cpuid.for_vcpu(vcpu.index())?)?;
    }
    if let Some((first, others)) = vcpus.split_first_mut() {
        first.boot(&entry_point(entry), entry.tables)?;
        for other in others {
            other.init_msrs()?;
        }
    }
    Ok(vcpus)
}

fn entry_point(entry: &strata_boot::Entry) -> EntryPoint {
    let protocol = match entry.protocol {
        strata_boot::Protocol::Linux64 => Protocol::Linux64,
        strata_boot::Protocol::Pvh => Protocol::Pvh,
    };
    EntryPoint {
        protocol,
        rip: entry.rip,
        arg: entry.arg,
    }
}

/// KVMCLOCK's system time registers, the new and the old number; bit 0 says that it is on
/// (kernel, Documentation/virt/kvm/x86/msr.rst).
const KVM_SYSTEM_TIME_MSRS: [u32; 2] = [0x4b56_4d01, 0x12];

/// Whether the guest on this vCPU was reset without having shut down before.
///
/// A Linux that restarts in good order switches its paravirtual clock off first, so that nothing
/// writes to memory that is another kernel's by then; one that panics does not get there. This
/// tells the two apart for stock kernels, in which a panic device has no driver until a module
/// is loaded.
pub fn reset_was_abrupt(vcpu: &mut Vcpu) -> bool {
    let entries = KVM_SYSTEM_TIME_MSRS.map(|index| kvm_msr_entry {
        index,
        ..Default::default()
    });
    let Ok(mut msrs) = Msrs::from_entries(&entries) else {
        return false;
    };
    let read = vcpu.fd().get_msrs(&mut msrs).unwrap_or_default();
    msrs.as_slice()
        .iter()
        .take(read)
        .any(|msr| msr.data & 1 != 0)
}
