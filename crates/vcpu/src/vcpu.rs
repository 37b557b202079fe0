use std::sync::Arc;

use kvm_ioctls::{Cap, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::errno;

use crate::arch::{CpuidTable, Registers};
use crate::error::{Error, Result};
use crate::handler::{Action, ExitHandler};
use crate::report::{AbnormalExit, Cause, ExitReason, MAX_INSTRUCTION};
use crate::sys::RunPage;

/// KVM_SYSTEM_EVENT_*.
const SYSTEM_EVENT_SHUTDOWN: u32 = 1;
const SYSTEM_EVENT_RESET: u32 = 2;

/// One vCPU that is not running: to be set up, then handed to a [`VcpuThread`](crate::VcpuThread).
#[derive(Debug)]
pub struct Vcpu {
    pub(crate) fd: VcpuFd,
    pub(crate) page: Arc<RunPage>,
    pub(crate) index: u32,
    /// Bytes of the XSAVE area that KVM exchanges for this VM.
    pub(crate) xsave_size: usize,
    /// What [`Vcpu::set_cpuid`] set.
    pub(crate) cpuid: CpuidTable,
}

/// What came of one KVM_RUN.
pub(crate) enum Step {
    /// An exit was served.
    Continue,
    /// KVM_RUN returned on a kick; no access is pending.
    Interrupted,
    /// The vCPU has ended.
    End(ExitReason),
}

impl Vcpu {
    /// Creates vCPU `index` of `vm`, whose interrupt controller must exist already.
    ///
    /// The index is also the APIC id. vCPU 0 is the one that boots; the others wait for INIT and
    /// SIPI.
    ///
    /// # Errors
    ///
    /// [`Error::Vcpu`] when KVM refuses.
    pub fn new(vm: &VmFd, index: u32) -> Result<Self> {
        let failed = |request| {
            move |source| Error::Vcpu {
                vcpu: index,
                request,
                source,
            }
        };
        let fd = vm
            .create_vcpu(u64::from(index))
            .map_err(failed("KVM_CREATE_VCPU"))?;
        let page = RunPage::map(&fd).map_err(failed("mmap of kvm_run"))?;
        // KVM_CAP_XSAVE2: 0 where KVM_GET_XSAVE2 does not exist.
        let xsave_size = usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0);
        let vcpu = Self {
            fd,
            page: Arc::new(page),
            index,
            xsave_size,
            cpuid: CpuidTable::default(),
        };
        vcpu.init_arch()?;
        Ok(vcpu)
    }

    /// The vCPU's index and APIC id.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The KVM file, for what this crate does not cover.
    pub fn fd(&self) -> &VcpuFd {
        &self.fd
    }

    pub(crate) fn failed(&self, request: &'static str) -> impl FnOnce(errno::Error) -> Error {
        let vcpu = self.index;
        move |source| Error::Vcpu {
            vcpu,
            request,
            source,
        }
    }

    /// Runs the guest up to its next exit and serves that.
    pub(crate) fn step<H: ExitHandler>(&mut self, handler: &H) -> Step {
        let cause = match self.fd.run() {
            // `ins` may carry several elements: the handler sees one access at a time.
            Ok(VcpuExit::IoIn(port, data)) => {
                for element in data.chunks_mut(self.page.io_size().max(1)) {
                    element.fill(0xff);
                    handler.pio_read(port, element);
                }
                return Step::Continue;
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                for element in data.chunks(self.page.io_size().max(1)) {
                    if let Some(end) = ending(handler.pio_write(port, element)) {
                        return end;
                    }
                }
                return Step::Continue;
            }
            Ok(VcpuExit::MmioRead(addr, data)) => {
                data.fill(0xff);
                handler.mmio_read(addr, data);
                return Step::Continue;
            }
            Ok(VcpuExit::MmioWrite(addr, data)) => {
                return ending(handler.mmio_write(addr, data)).unwrap_or(Step::Continue);
            }
            Ok(VcpuExit::IoapicEoi(vector)) => {
                handler.ioapic_eoi(vector);
                return Step::Continue;
            }
            Err(e) if e.errno() == libc::EINTR => return Step::Interrupted,
            // An application processor woke up and found no SIPI (KVM API, KVM_RUN).
            Err(e) if e.errno() == libc::EAGAIN => return Step::Continue,
            Ok(VcpuExit::Intr) => return Step::Interrupted,
            Ok(VcpuExit::Hlt) => return Step::End(ExitReason::Halted),
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_SHUTDOWN, _)) => {
                return Step::End(ExitReason::Shutdown);
            }
            Ok(VcpuExit::SystemEvent(SYSTEM_EVENT_RESET, _)) => {
                return Step::End(ExitReason::Reset);
            }
            Ok(exit) => abnormal_cause(&exit, &self.page),
            Err(e) => Cause::Run { errno: e.errno() },
        };
        Step::End(ExitReason::Abnormal(Box::new(self.report(cause, handler))))
    }

    /// Lets KVM complete the access that the last exit was for, and its parts that are still to come,
    /// without running the guest (KVM API, KVM_RUN). What would be read is dropped.
    pub(crate) fn complete_access(&mut self) {
        /// An element at a time, of the most that one instruction moves at once.
        const MOST_EXITS: usize = 64;
        self.page.set_immediate_exit(true);
        for _ in 0..MOST_EXITS {
            if self.fd.run().is_err() {
                break;
            }
        }
        self.page.set_immediate_exit(false);
    }

    fn report<H: ExitHandler>(&self, cause: Cause, handler: &H) -> AbnormalExit {
        let registers = Registers::read(&self.fd).ok();
        let instruction = registers
            .as_ref()
            .map(|r| self.read_instruction(r, handler))
            .unwrap_or_default();
        AbnormalExit {
            vcpu: self.index,
            cause,
            registers,
            instruction,
        }
    }

    /// The bytes at the instruction pointer, as far as the guest's page tables map them.
    fn read_instruction<H: ExitHandler>(&self, registers: &Registers, handler: &H) -> Vec<u8> {
        let start = registers.linear_ip();
        let mut bytes = Vec::with_capacity(MAX_INSTRUCTION);
        for offset in 0..MAX_INSTRUCTION as u64 {
            let Ok(place) = self.fd.translate_gva(start.wrapping_add(offset)) else {
                break;
            };
            let mut byte = [0];
            if place.valid == 0 || !handler.read_guest(place.physical_address, &mut byte) {
                break;
            }
            bytes.extend(byte);
        }
        bytes
    }
}

fn ending(action: Action) -> Option<Step> {
    match action {
        Action::Resume => None,
        Action::Shutdown => Some(Step::End(ExitReason::Shutdown)),
        Action::Reset => Some(Step::End(ExitReason::Reset)),
    }
}

fn abnormal_cause(exit: &VcpuExit<'_>, page: &RunPage) -> Cause {
    match *exit {
        VcpuExit::Shutdown => Cause::TripleFault,
        VcpuExit::InternalError => {
            let (suberror, data) = page.internal_error();
            Cause::InternalError { suberror, data }
        }
        VcpuExit::FailEntry(hardware_reason, cpu) => Cause::FailEntry {
            hardware_reason,
            cpu,
        },
        VcpuExit::Unknown => Cause::Unknown {
            hardware_reason: page.hardware_exit_reason(),
        },
        VcpuExit::MemoryFault { flags, gpa, size } => Cause::MemoryFault { gpa, size, flags },
        VcpuExit::SystemEvent(kind, data) => Cause::SystemEvent {
            kind,
            data: data.to_vec(),
        },
        ref other => Cause::Unexpected {
            exit: format!("{other:?}"),
        },
    }
}
