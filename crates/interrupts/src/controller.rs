//! The interrupt controller of a VM, whichever half of it KVM emulates.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvm_ioctls::{Cap, VmFd};

use crate::arch::{self, Chips};
use crate::gsi::GsiTable;
use crate::handle::{Interrupt, IrqLine};
use crate::irqfd::{self, Irqfd};
use crate::msi::signal_msi;
use crate::{ControllerState, Error, MsiMessage};

/// Where the IOAPIC is emulated. Local APICs are KVM's in both kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "kebab-case"))]
pub enum Kind {
    /// In KVM: no exit for any interrupt.
    #[default]
    InKernel,
    /// In this process: less of the guest's input reaches the host's kernel. Interrupts travel
    /// without exits as well; writes to the IOAPIC and the ends of level-triggered interrupts
    /// cost one each.
    Split,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InKernel => "in-kernel",
            Self::Split => "split",
        })
    }
}

/// The interrupt controller of one VM. Clones are handles of the same controller.
///
/// GSIs 0 to 23 are the pins of the IOAPIC; those above are allocated to message-signalled
/// interrupts.
///
/// ```no_run
/// use std::sync::Arc;
/// use strata_interrupts::{Controller, Kind, MsiMessage};
///
/// let vm = Arc::new(kvm_ioctls::Kvm::new()?.create_vm()?);
/// let controller = Controller::new(Arc::clone(&vm), Kind::InKernel)?;
/// let _vcpu = vm.create_vcpu(0)?;
///
/// let vector = controller.msi()?;
/// let message = MsiMessage { address: 0xfee0_0000, data: 0x41 };
/// controller.set_messages(&[(vector.gsi(), message)])?;
/// controller.set_masked(vector.gsi(), false)?;
/// vector.trigger()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Controller {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    vm: Arc<VmFd>,
    kind: Kind,
    inner: Mutex<Inner>,
}

/// What changes. One lock serves it: it is taken to set interrupts up, for level-triggered ones
/// of the split kind, and never to trigger an [`Interrupt`].
#[derive(Debug)]
struct Inner {
    chips: Chips,
    gsis: GsiTable,
}

impl Controller {
    /// Makes the controller of `vm`, before its vCPUs.
    ///
    /// # Errors
    ///
    /// [`Error::Unsupported`] where KVM lacks the kind, [`Error::Create`] where it refuses,
    /// [`Error::SetRoutes`] where it takes no routing table.
    pub fn new(vm: Arc<VmFd>, kind: Kind) -> Result<Self, Error> {
        // The capability's value is the number of GSIs that can be routed.
        let limit = u32::try_from(vm.check_extension_int(Cap::IrqRouting)).unwrap_or(0);
        if limit < arch::PINS {
            return Err(Error::Unsupported { kind });
        }
        let chips = Chips::create(&vm, kind)?;
        let gsis = GsiTable::new(&vm, kind, limit)?;
        let inner = Mutex::new(Inner { chips, gsis });
        Ok(Self {
            shared: Arc::new(Shared { vm, kind, inner }),
        })
    }

    /// The controller's kind.
    pub fn kind(&self) -> Kind {
        self.shared.kind
    }

    /// An edge-triggered interrupt at `pin`: 0 to 23.
    ///
    /// # Errors
    ///
    /// [`Error::NotAPin`], [`Error::GsiInUse`], [`Error::CreateEventFd`], [`Error::Irqfd`].
    pub fn edge_pin(&self, pin: u32) -> Result<Interrupt, Error> {
        let trigger = irqfd::event()?;
        let irqfd = Irqfd::new(pin, Arc::clone(&trigger), None, false);
        self.lock().gsis.claim_irqfd(&self.shared.vm, pin, irqfd)?;
        Ok(Interrupt::new(self.clone(), pin, trigger, None))
    }

    /// A level-triggered interrupt at `pin` that its owner is asked to trigger again after each
    /// end of it, by [`Interrupt::resample_fd`]: what VFIO needs for INTx.
    ///
    /// In the split kind, events between a trigger and its end may interrupt the guest once
    /// more; handlers of level-triggered interrupts find nothing to do then.
    ///
    /// # Errors
    ///
    /// As [`Controller::edge_pin`].
    pub fn resampled_pin(&self, pin: u32) -> Result<Interrupt, Error> {
        let trigger = irqfd::event()?;
        let resample = Some(irqfd::event()?);
        let kvm_resamples = self.shared.kind == Kind::InKernel;
        let irqfd = Irqfd::new(pin, Arc::clone(&trigger), resample.clone(), kvm_resamples);
        self.lock().gsis.claim_irqfd(&self.shared.vm, pin, irqfd)?;
        Ok(Interrupt::new(self.clone(), pin, trigger, resample))
    }

    /// A line at `pin` whose level is set.
    ///
    /// # Errors
    ///
    /// [`Error::NotAPin`], [`Error::GsiInUse`].
    pub fn line(&self, pin: u32) -> Result<IrqLine, Error> {
        self.lock().gsis.claim_line(pin)?;
        Ok(IrqLine::new(self.clone(), pin))
    }

    /// A message-signalled interrupt at the lowest free GSI: masked, and without a message.
    ///
    /// # Errors
    ///
    /// [`Error::NoFreeGsi`], [`Error::CreateEventFd`].
    pub fn msi(&self) -> Result<Interrupt, Error> {
        let mut inner = self.lock();
        let gsi = inner.gsis.free_msi()?;
        self.claim_msi(&mut inner, gsi)
    }

    /// A message-signalled interrupt at `gsi`, as a saved machine had it.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnMsi`] for a pin or a GSI that KVM does not route, [`Error::GsiInUse`],
    /// [`Error::CreateEventFd`].
    pub fn msi_at(&self, gsi: u32) -> Result<Interrupt, Error> {
        self.claim_msi(&mut self.lock(), gsi)
    }

    fn claim_msi(&self, inner: &mut Inner, gsi: u32) -> Result<Interrupt, Error> {
        let trigger = irqfd::event()?;
        inner
            .gsis
            .claim_msi(gsi, Irqfd::new(gsi, Arc::clone(&trigger), None, false))?;
        Ok(Interrupt::new(self.clone(), gsi, trigger, None))
    }

    /// Gives message-signalled interrupts, named by GSI, their messages: all by one ioctl, and
    /// none where they have them already. Where it fails, no message has changed.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnMsi`], [`Error::SetRoutes`]; [`Error::Irqfd`] where an unmasked interrupt
    /// could not be opened to its first message.
    pub fn set_messages(&self, messages: &[(u32, MsiMessage)]) -> Result<(), Error> {
        self.lock().gsis.set_messages(&self.shared.vm, messages)
    }

    /// Masks a message-signalled interrupt or unmasks it. What is triggered meanwhile is
    /// delivered once, when the mask goes.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnMsi`], [`Error::Irqfd`], [`Error::EventFd`].
    pub fn set_masked(&self, gsi: u32, masked: bool) -> Result<(), Error> {
        self.lock().gsis.set_masked(&self.shared.vm, gsi, masked)
    }

    /// Whether a masked interrupt was triggered: the MSI-X pending bit.
    ///
    /// # Errors
    ///
    /// [`Error::EventFd`] where its eventfd cannot be read.
    pub fn is_pending(&self, gsi: u32) -> Result<bool, Error> {
        self.lock().gsis.is_pending(gsi)
    }

    /// Sends `message` at once, without a GSI. Says whether a local APIC accepted it.
    ///
    /// # Errors
    ///
    /// [`Error::SignalMsi`], also where the message names a local APIC that does not exist.
    pub fn send(&self, message: MsiMessage) -> Result<bool, Error> {
        signal_msi(&self.shared.vm, message)
    }

    /// Guest-physical base and bytes of the register window whose accesses belong to
    /// [`Controller::mmio_read`] and [`Controller::mmio_write`]; `None` where KVM serves them.
    pub fn mmio_window(&self) -> Option<(u64, u64)> {
        arch::mmio_window(self.shared.kind)
    }

    /// The guest reads at `offset` of the register window, in any width.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        self.lock().chips.read(offset, data);
    }

    /// The guest writes at `offset` of the register window, in any width.
    ///
    /// # Errors
    ///
    /// [`Error::SetRoutes`], [`Error::Irqfd`], [`Error::EventFd`] where KVM refuses what the
    /// write programs.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let Inner { chips, gsis } = &mut *self.lock();
        chips.write(&self.shared.vm, gsis, offset, data)
    }

    /// A vCPU left KVM with `KVM_EXIT_IOAPIC_EOI` for `vector`.
    pub fn eoi(&self, vector: u8) {
        let Inner { chips, gsis } = &mut *self.lock();
        chips.eoi(&self.shared.vm, gsis, vector);
    }

    /// The state to save. The vCPUs are paused and the devices' workers drained.
    ///
    /// # Errors
    ///
    /// [`Error::Chip`], [`Error::EventFd`].
    pub fn state(&self) -> Result<ControllerState, Error> {
        let inner = self.lock();
        Ok(ControllerState {
            chips: inner.chips.state(&self.shared.vm, &inner.gsis)?,
            msis: inner.gsis.msi_states()?,
        })
    }

    /// Continues from `state`, in a machine whose devices own the same GSIs as when it was
    /// saved. Restore the vCPUs' local APICs before, since what waits is delivered at once, and
    /// the devices after.
    ///
    /// # Errors
    ///
    /// [`Error::WrongKind`], [`Error::InvalidState`]; [`Error::Chip`], [`Error::SetRoutes`],
    /// [`Error::Irqfd`], [`Error::EventFd`] where KVM refuses. The controller is then undefined.
    pub fn set_state(&self, state: &ControllerState) -> Result<(), Error> {
        let Inner { chips, gsis } = &mut *self.lock();
        chips.set_state(&self.shared.vm, gsis, &state.chips)?;
        gsis.set_msi_states(&self.shared.vm, &state.msis)
    }

    pub(crate) fn set_line(&self, pin: u32, asserted: bool) -> Result<(), Error> {
        let vm = &self.shared.vm;
        match self.shared.kind {
            Kind::InKernel => vm
                .set_irq_line(pin, asserted)
                .map_err(|source| Error::SetLine { pin, source }),
            Kind::Split => {
                let Inner { chips, gsis } = &mut *self.lock();
                chips.set_line(vm, gsis, pin, asserted);
                Ok(())
            }
        }
    }

    pub(crate) fn release(&self, gsi: u32) {
        self.lock().gsis.release(&self.shared.vm, gsi);
    }

    /// A thread that panicked within left at worst a change half done, not a broken table.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
