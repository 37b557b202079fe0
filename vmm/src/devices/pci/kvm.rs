//! What a function on the bus needs of KVM: interrupts, and kicks.

use std::io;
use std::sync::Arc;

use kvm_ioctls::{IoEventAddress, NoDatamatch, VmFd};
use strata_interrupts::{Controller, Interrupt};
use strata_pci::{MsiError, MsiMessage, MsiSink};
use strata_virtio::EventBinder;
use vmm_sys_util::eventfd::EventFd;

use crate::error::Error;

/// The MSI-X vectors of a function: each an interrupt that KVM takes from an eventfd.
#[derive(Debug)]
pub(super) struct Vectors {
    controller: Controller,
    interrupts: Vec<Interrupt>,
}

impl Vectors {
    pub(super) fn new(controller: &Controller, count: usize) -> Result<Self, Error> {
        let interrupts = (0..count)
            .map(|_| controller.msi())
            .collect::<Result<_, _>>()?;
        Ok(Self {
            controller: controller.clone(),
            interrupts,
        })
    }

    fn get(&self, vector: u16) -> Option<&Interrupt> {
        self.interrupts.get(usize::from(vector))
    }

    fn gsi(&self, vector: u16, action: &'static str) -> Result<u32, MsiError> {
        self.get(vector)
            .map(Interrupt::gsi)
            .ok_or_else(|| MsiError {
                vector,
                action,
                source: "there is no such vector".into(),
            })
    }
}

impl MsiSink for Vectors {
    fn vectors(&self) -> u16 {
        self.interrupts.len().try_into().unwrap_or(u16::MAX)
    }

    fn set_messages(&self, messages: &[(u16, MsiMessage)]) -> Result<(), MsiError> {
        const ACTION: &str = "set its message";
        let routes = messages
            .iter()
            .map(|&(vector, MsiMessage { address, data })| {
                let message = strata_interrupts::MsiMessage { address, data };
                Ok((self.gsi(vector, ACTION)?, message))
            })
            .collect::<Result<Vec<_>, _>>()?;
        self.controller
            .set_messages(&routes)
            .map_err(|source| MsiError {
                vector: messages.first().map_or(0, |(vector, _)| *vector),
                action: ACTION,
                source: source.into(),
            })
    }

    fn set_masked(&self, vector: u16, masked: bool) -> Result<(), MsiError> {
        let action = if masked { "mask it" } else { "unmask it" };
        let gsi = self.gsi(vector, action)?;
        self.controller
            .set_masked(gsi, masked)
            .map_err(|source| MsiError {
                vector,
                action,
                source: source.into(),
            })
    }

    fn is_pending(&self, vector: u16) -> bool {
        self.get(vector)
            .is_some_and(|interrupt| self.controller.is_pending(interrupt.gsi()).unwrap_or(false))
    }

    fn event_fd(&self, vector: u16) -> Option<&EventFd> {
        self.get(vector).map(Interrupt::event_fd)
    }
}

/// Kicks by KVM's ioeventfds: the guest's write does not leave the kernel.
pub(super) struct Kicks(pub(super) Arc<VmFd>);

impl EventBinder for Kicks {
    fn bind(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.0
            .register_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }

    fn unbind(&self, address: u64, event: &EventFd) -> io::Result<()> {
        self.0
            .unregister_ioevent(event, &IoEventAddress::Mmio(address), NoDatamatch)
            .map_err(|error| io::Error::from_raw_os_error(error.errno()))
    }
}
