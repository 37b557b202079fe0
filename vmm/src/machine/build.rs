//! Building a machine, in the order that KVM and the guest's first look at it need.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use strata_balloon::BalloonHandle;
use strata_boot::{Boot, Cache, Entry, Initrd, Kernel, Protocol};
use strata_interrupts::{Controller, Kind};
use strata_memory::{Backing, GuestRam, MemorySize, Pages, RamConfig};
use strata_vcpu::{Host, VcpuThread};

use super::Ended;
use super::input::Source;
use crate::announce::Announcer;
use crate::arch;
use crate::config::{HugePages, Irqchip, KernelEntry, KernelMode, MachineConfig, MemoryConfig};
use crate::console::sink::{Listener, Sink};
use crate::devices::{self, Bus, Disks, Nets, Pci, Power, PowerButton, SerialPort, SmallDevices};
use crate::error::{Chain, Error};
use crate::sys;

/// What commands of the control socket work on, of a machine that runs.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) power_button: Arc<PowerButton>,
    pub(crate) pci: Arc<Pci>,
    pub(crate) disks: Rc<Disks>,
    pub(crate) nets: Rc<Nets>,
    pub(crate) balloon: Option<BalloonHandle>,
    pub(crate) memory: MemorySize,
    pub(crate) announcer: Announcer,
}

/// A machine whose vCPUs have yet to be let go.
///
/// The fields are dropped in this order: vCPUs use what follows them.
pub(super) struct Machine {
    pub(super) vcpus: Rc<Vec<VcpuThread>>,
    pub(super) ended: Arc<Ended>,
    pub(super) serial: Arc<SerialPort>,
    pub(super) power_button: Arc<PowerButton>,
    pub(super) pci: Arc<Pci>,
    pub(super) small: SmallDevices,
    memory: MemorySize,
    pub(super) disks: Rc<Disks>,
    pub(super) nets: Rc<Nets>,
    pub(super) power: Arc<Power>,
    pub(super) announcer: Announcer,
    control: Cell<Option<Listener>>,
    input: Cell<Option<Source>>,
    pub(super) controller: Controller,
    pub(super) bus: Arc<Bus>,
    _vm: Arc<VmFd>,
    pub(super) ram: Arc<GuestRam>,
}

impl Machine {
    pub(super) fn build(config: &MachineConfig) -> Result<Self, Error> {
        let host = open_host(config)?;
        let kernel = open_kernel(config)?;
        let initrd = open_initrd(config)?;
        let (sink, listener) = Sink::open(&config.serial)?;
        let (control, announcer) = match &config.qmp {
            None => (None, Announcer::default()),
            Some(qmp) => (
                Some(Listener::bind(&qmp.unix, "control socket")?),
                Announcer::new()?,
            ),
        };
        let ram = GuestRam::new(&ram_config(&config.memory), &arch::RAM_LAYOUT)?;
        let ram = Arc::new(ram);

        // KVM_CREATE_VM waits for an RCU grace period, some milliseconds (it starts a worker and
        // moves it between control groups), in which another thread can load the kernel. It is
        // this thread that creates, since it has no mapping to wait for that the other would make.
        let (vm, loaded) = thread::scope(|scope| {
            let loaded = scope.spawn(|| load(config, &kernel, initrd.as_ref(), &ram));
            let vm = create_vm(&host, config);
            (
                vm,
                loaded
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            )
        });
        let ((vm, controller), entry) = (vm?, loaded?);
        let vcpus = arch::create_vcpus(&host, &vm, config, &entry)?;
        map_ram(&vm, &ram)?;

        let input = Source::of(&config.serial, listener, sink.client());
        let pci = Pci::new(
            Arc::clone(&vm),
            controller.clone(),
            ram.memory().clone(),
            config.has_hot_plug(),
        )?;
        let pci = Arc::new(pci);
        let disks = Disks::create(config, &pci, &announcer)?;
        let nets = Nets::create(&config.net, &pci)?;
        let small = SmallDevices::create(config, &pci, &ram)?;
        let devices = devices::create(&controller, Arc::clone(&pci), sink)?;
        let ended = Arc::new(Ended::new()?);
        let bus = Arc::new(Bus::new(
            devices.io,
            Arc::clone(&pci),
            Arc::clone(&devices.power),
            controller.clone(),
            ram.memory().clone(),
            Arc::clone(&ended),
        ));
        let vcpus = vcpus
            .into_iter()
            .map(|vcpu| VcpuThread::spawn(vcpu, Arc::clone(&bus)))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vcpus: Rc::new(vcpus),
            ended,
            serial: devices.serial,
            power_button: devices.power_button,
            pci,
            small,
            memory: config.memory.size,
            disks: Rc::new(disks),
            nets: Rc::new(nets),
            power: devices.power,
            announcer,
            control: Cell::new(control),
            input: Cell::new(input),
            controller,
            bus,
            _vm: vm,
            ram,
        })
    }

    /// The console's input, once.
    pub(super) fn take_input(&self) -> Option<Source> {
        self.input.take()
    }

    pub(super) fn parts(&self) -> Parts {
        Parts {
            power_button: self.power_button.clone(),
            pci: self.pci.clone(),
            disks: self.disks.clone(),
            nets: self.nets.clone(),
            balloon: self.small.balloon.clone(),
            memory: self.memory,
            announcer: self.announcer.clone(),
        }
    }

    /// The control socket, once.
    pub(super) fn take_control(&self) -> Option<Listener> {
        self.control.take()
    }
}

pub(super) fn open_host(config: &MachineConfig) -> Result<Host, Error> {
    let host = Host::open()?;
    if !host.kind().runs_stock_kernels() && !config.pvm_kernel {
        return Err(Error::PvmHost);
    }
    host.check()?;
    Ok(host)
}

pub(super) fn open_kernel(config: &MachineConfig) -> Result<Kernel, Error> {
    let kernel = match config.kernel_mode {
        KernelMode::Bzimage => Kernel::open(&config.kernel)?,
        KernelMode::Extract => {
            match Kernel::open_unpacked(&config.kernel, Cache::of_user().as_ref()) {
                Ok(kernel) => kernel,
                Err(strata_boot::Error::Kernel { source, .. })
                    if matches!(*source, strata_boot::Error::UnknownCompression { .. }) =>
                {
                    log::info!("{source}");
                    Kernel::open(&config.kernel)?
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    if let Some(warning) = kernel.warning() {
        log::warn!("{}", Chain(warning));
    }
    Ok(kernel)
}

pub(super) fn open_initrd(config: &MachineConfig) -> Result<Option<Initrd>, Error> {
    let Some(path) = config.initrd.as_deref() else {
        return Ok(None);
    };
    let initrd = match config.kernel_mode {
        KernelMode::Bzimage => Initrd::open(path)?,
        KernelMode::Extract => {
            // The guest holds it twice while it makes files of it.
            let max_size = config.memory.size.bytes() / 8;
            Initrd::open_unpacked(path, Cache::of_user().as_ref(), max_size)?
        }
    };
    if let Some(warning) = initrd.warning() {
        log::warn!("{}", Chain(warning));
    }
    Ok(Some(initrd))
}

fn ram_config(memory: &MemoryConfig) -> RamConfig {
    let pages = match memory.hugepages {
        HugePages::Transparent => Pages::Transparent,
        HugePages::Off => Pages::Small,
        HugePages::Size2M => Pages::Huge2M,
        HugePages::Size1G => Pages::Huge1G,
    };
    let backing = if memory.shared {
        Backing::Memfd(pages)
    } else {
        Backing::Anonymous(pages)
    };
    RamConfig {
        size: memory.size,
        backing,
    }
}

/// A machine of KVM's with its interrupt controller, and nothing else yet.
pub(super) fn create_vm(
    host: &Host,
    config: &MachineConfig,
) -> Result<(Arc<VmFd>, Controller), Error> {
    let vm = host.kvm().create_vm().map_err(|source| Error::Kvm {
        what: "create a machine",
        source,
    })?;
    let vm = Arc::new(vm);
    arch::prepare_vm(&vm)?;
    let kind = match config.irqchip {
        Irqchip::Kernel => Kind::InKernel,
        Irqchip::Split => Kind::Split,
    };
    let controller = Controller::new(Arc::clone(&vm), kind)?;
    Ok((vm, controller))
}

/// Fills guest memory: firmware tables, kernel, initrd and boot parameters.
pub(super) fn load(
    config: &MachineConfig,
    kernel: &Kernel,
    initrd: Option<&Initrd>,
    ram: &GuestRam,
) -> Result<Entry, Error> {
    let rsdp = arch::write_firmware(config, ram.memory())?;
    let boot = Boot {
        kernel,
        command_line: config.cmdline.as_bytes(),
        initrd,
        rsdp: Some(rsdp),
        reserved: &arch::RESERVED,
        protocol: match config.kernel_entry {
            KernelEntry::Auto => None,
            KernelEntry::Linux64 => Some(Protocol::Linux64),
            KernelEntry::Pvh => Some(Protocol::Pvh),
        },
    };
    Ok(boot.load(ram.memory())?)
}

/// Gives guest RAM to KVM, a memory slot for each region.
pub(crate) fn map_ram(vm: &VmFd, ram: &GuestRam) -> Result<(), Error> {
    for (slot, region) in (0_u32..).zip(ram.regions()) {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.guest_base().0,
            memory_size: region.size(),
            userspace_addr: region.host_addr() as u64,
        };
        sys::set_memory_region(vm, region).map_err(|source| Error::Kvm {
            what: "map guest memory",
            source,
        })?;
    }
    Ok(())
}
