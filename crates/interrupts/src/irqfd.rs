//! An eventfd that KVM turns into an interrupt while it is attached to its GSI.

use std::io;
use std::sync::Arc;

use kvm_ioctls::VmFd;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Error;

/// The eventfds of one GSI. Detached, the trigger holds what it is told until it is attached
/// again: this is how an interrupt survives its mask.
#[derive(Debug)]
pub(crate) struct Irqfd {
    gsi: u32,
    trigger: Arc<EventFd>,
    resample: Option<Arc<EventFd>>,
    /// Whether KVM is to watch EOIs for `resample`; the split controller does it itself, since
    /// KVM only can with its own IOAPIC.
    kvm_resamples: bool,
    attached: bool,
}

impl Irqfd {
    pub(crate) fn new(
        gsi: u32,
        trigger: Arc<EventFd>,
        resample: Option<Arc<EventFd>>,
        kvm_resamples: bool,
    ) -> Self {
        Self {
            gsi,
            trigger,
            resample,
            kvm_resamples,
            attached: false,
        }
    }

    pub(crate) fn set_attached(&mut self, vm: &VmFd, attached: bool) -> Result<(), Error> {
        if attached == self.attached {
            return Ok(());
        }
        if attached {
            self.attach(vm)?
        } else {
            self.detach(vm)?
        }
        self.attached = attached;
        Ok(())
    }

    /// Whether an event waits for the next attachment.
    pub(crate) fn is_pending(&self) -> Result<bool, Error> {
        if self.attached {
            return Ok(false);
        }
        let events = self.take()?;
        if events > 0 {
            self.trigger
                .write(events)
                .map_err(|source| self.event_error("write", source))?;
        }
        Ok(events > 0)
    }

    /// Detaches, and leaves one event for the next attachment if `pending`, otherwise none.
    pub(crate) fn restart(&mut self, vm: &VmFd, pending: bool) -> Result<(), Error> {
        self.set_attached(vm, false)?;
        self.take()?;
        if pending {
            self.trigger
                .write(1)
                .map_err(|source| self.event_error("write", source))?;
        }
        Ok(())
    }

    /// Tells the owner that the guest ended the interrupt.
    pub(crate) fn notify_resample(&self) {
        if let Some(resample) = &self.resample {
            // The only failure is a full counter, which has long told the owner.
            let _ = resample.write(1);
        }
    }

    /// KVM delivers a held event as it registers the eventfd, and clears the count as it
    /// unregisters it.
    fn attach(&self, vm: &VmFd) -> Result<(), Error> {
        match &self.resample {
            Some(resample) if self.kvm_resamples => {
                vm.register_irqfd_with_resample(&self.trigger, resample, self.gsi)
            }
            _ => vm.register_irqfd(&self.trigger, self.gsi),
        }
        .map_err(|source| Error::Irqfd {
            action: "register",
            gsi: self.gsi,
            source,
        })
    }

    fn detach(&self, vm: &VmFd) -> Result<(), Error> {
        vm.unregister_irqfd(&self.trigger, self.gsi)
            .map_err(|source| Error::Irqfd {
                action: "unregister",
                gsi: self.gsi,
                source,
            })
    }

    fn take(&self) -> Result<u64, Error> {
        match self.trigger.read() {
            Ok(events) => Ok(events),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(source) => Err(self.event_error("read", source)),
        }
    }

    fn event_error(&self, action: &'static str, source: io::Error) -> Error {
        Error::EventFd {
            action,
            gsi: self.gsi,
            source,
        }
    }
}

/// A new eventfd as every interrupt uses it: a full counter must not block its device.
pub(crate) fn event() -> Result<Arc<EventFd>, Error> {
    EventFd::new(EFD_NONBLOCK)
        .map(Arc::new)
        .map_err(Error::CreateEventFd)
}
