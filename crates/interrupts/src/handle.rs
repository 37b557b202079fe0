//! What a device owns: an interrupt that it triggers, or a line whose level it sets.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::{Controller, Error};

/// An interrupt behind an eventfd: a pin's edge, a resampled pin, or a message.
///
/// Triggering takes one write to the eventfd: no lock, no allocation, and no exit of the guest.
/// The eventfd may be handed to whoever signals it (a worker, vhost, VFIO); the GSI is given
/// back when the interrupt is dropped.
#[derive(Debug)]
pub struct Interrupt {
    controller: Controller,
    gsi: u32,
    trigger: Arc<EventFd>,
    resample: Option<Arc<EventFd>>,
}

impl Interrupt {
    pub(crate) fn new(
        controller: Controller,
        gsi: u32,
        trigger: Arc<EventFd>,
        resample: Option<Arc<EventFd>>,
    ) -> Self {
        Self {
            controller,
            gsi,
            trigger,
            resample,
        }
    }

    /// Interrupts the guest. While the interrupt is masked, the event waits; events that wait
    /// together become one interrupt.
    ///
    /// # Errors
    ///
    /// [`Error::EventFd`] where the eventfd is full, which takes 2⁶⁴ - 2 events while masked.
    pub fn trigger(&self) -> Result<(), Error> {
        self.trigger.write(1).map_err(|source| Error::EventFd {
            action: "write",
            gsi: self.gsi,
            source,
        })
    }

    /// The GSI.
    pub fn gsi(&self) -> u32 {
        self.gsi
    }

    /// The eventfd that triggers the interrupt.
    pub fn event_fd(&self) -> &EventFd {
        &self.trigger
    }

    /// The non-blocking eventfd that is signalled when the guest has ended a level-triggered
    /// interrupt; its owner then triggers again if its device still asks for service.
    /// `None` unless made by [`Controller::resampled_pin`].
    pub fn resample_fd(&self) -> Option<&EventFd> {
        self.resample.as_deref()
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        self.controller.release(self.gsi);
    }
}

/// A pin whose level its device sets: the guest is interrupted for as long as it is asserted.
///
/// A pin has one line; devices that share a pin combine their levels first. Dropping the line
/// releases the pin.
#[derive(Debug)]
pub struct IrqLine {
    controller: Controller,
    pin: u32,
}

impl IrqLine {
    pub(crate) fn new(controller: Controller, pin: u32) -> Self {
        Self { controller, pin }
    }

    /// Asserts the line or releases it. On a pin that the guest programs as edge triggered, a
    /// rising line is an edge.
    ///
    /// # Errors
    ///
    /// [`Error::SetLine`] where KVM refuses.
    pub fn set(&self, asserted: bool) -> Result<(), Error> {
        self.controller.set_line(self.pin, asserted)
    }

    /// The pin, which is also the GSI.
    pub fn pin(&self) -> u32 {
        self.pin
    }
}

impl Drop for IrqLine {
    fn drop(&mut self) {
        // Fails only with the VM, whose lines no longer matter.
        let _ = self.set(false);
        self.controller.release(self.pin);
    }
}
