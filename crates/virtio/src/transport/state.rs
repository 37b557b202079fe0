//! The transport's state as plain data, which is not trusted when it comes back.

use std::sync::atomic::Ordering;

use strata_pci::{ConfigSpace, ConfigState, Msix, MsixState};

use super::common::{DRIVER_OK, FEATURES_OK};
use super::lifecycle::Lifecycle;
use crate::error::Error;
use crate::queue::QueueState;

/// One queue, with its interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TransportQueueState {
    /// Where it is, and how far it is served.
    pub queue: QueueState,
    /// Its MSI-X vector, or 0xffff.
    pub vector: u16,
}

/// What a saved machine must say about a virtio device, apart from the device type's own state.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TransportState {
    /// Configuration space.
    pub config: ConfigState,
    /// MSI-X vectors.
    pub msix: MsixState,
    /// Device status, without NEEDS_RESET.
    pub status: u8,
    /// Whether the device needs a reset.
    pub needs_reset: bool,
    /// The features that the driver has accepted.
    pub accepted: u64,
    /// device_feature_select, driver_feature_select.
    pub feature_selects: [u32; 2],
    /// queue_select.
    pub queue_select: u16,
    /// The configuration's vector, or 0xffff.
    pub config_vector: u16,
    /// The configuration's generation.
    pub generation: u32,
    /// ISR status.
    pub isr: u8,
    /// All queues, in order.
    pub queues: Vec<TransportQueueState>,
}

impl TransportState {
    /// Name and version of what this is.
    pub const KIND: (&'static str, u32) = ("virtio-pci", 1);

    pub(super) fn of(config: &ConfigSpace, msix: &Msix, life: &Lifecycle) -> Self {
        let (registers, signals) = (&life.registers, &life.signals);
        let queues = registers.queues.iter().zip(&signals.queue_vectors);
        Self {
            config: config.state(),
            msix: msix.state(),
            status: registers.status,
            needs_reset: signals.needs_reset.load(Ordering::SeqCst),
            accepted: registers.accepted,
            feature_selects: [registers.device_select, registers.driver_select],
            queue_select: registers.queue_select,
            config_vector: signals.config_vector.load(Ordering::Relaxed),
            generation: signals.generation.load(Ordering::Relaxed),
            isr: signals.isr.load(Ordering::Relaxed),
            queues: queues
                .map(|(queue, vector)| TransportQueueState {
                    queue: queue.state,
                    vector: vector.load(Ordering::Relaxed),
                })
                .collect(),
        }
    }

    pub(super) fn restore(
        &self,
        config: &mut ConfigSpace,
        msix: &mut Msix,
        msix_control: u16,
        life: &mut Lifecycle,
    ) -> Result<(), Error> {
        let (registers, signals) = (&mut life.registers, &life.signals);
        if registers.status != 0 {
            return Err(Error::State("the device is in use"));
        }
        if self.queues.len() != registers.queues.len() {
            return Err(Error::State("the number of queues differs"));
        }
        registers.accepted = self.accepted;
        let ready = self.status & (FEATURES_OK | DRIVER_OK);
        if ready == DRIVER_OK || ready != 0 && !registers.features_fit() {
            return Err(Error::State("the driver has not accepted what is offered"));
        }
        config.set_state(&self.config)?;
        msix.set_state(&self.msix, config.u16_at(msix_control.into()))?;
        registers.status = self.status & !super::common::NEEDS_RESET;
        [registers.device_select, registers.driver_select] = self.feature_selects;
        registers.queue_select = self.queue_select;
        for (to, from) in registers.queues.iter_mut().zip(&self.queues) {
            to.state = from.queue;
        }
        for (to, from) in signals.queue_vectors.iter().zip(&self.queues) {
            to.store(from.vector, Ordering::Relaxed);
        }
        signals
            .config_vector
            .store(self.config_vector, Ordering::Relaxed);
        signals.generation.store(self.generation, Ordering::Relaxed);
        signals.isr.store(self.isr, Ordering::Relaxed);
        signals
            .needs_reset
            .store(self.needs_reset, Ordering::SeqCst);
        Ok(())
    }
}
