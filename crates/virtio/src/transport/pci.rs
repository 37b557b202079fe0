//! The device as a PCI function.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use strata_memory::GuestMemory;
use strata_pci::{Bar, BarRange, ConfigSpace, Function, MsiError, MsiSink, Msix};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::common::{Registers, STATUS};
use super::layout::{self, Capabilities};
use super::lifecycle::Lifecycle;
use super::{EventBinder, TransportState};
use crate::device::Device;
use crate::error::Error;
use crate::features;
use crate::interrupt::{ConfigInterrupt, Signals};

/// A virtio device behind PCI: what goes into a slot of a [`Bus`](strata_pci::Bus).
///
/// One lock per device serves the vCPUs' accesses. Kicks take none: they are ioeventfds, and where
/// they can not be, the notify register only signals the same event; nor does the ISR status.
pub struct VirtioPci {
    inner: Mutex<Inner>,
    signals: Arc<Signals>,
    kicks: Arc<[Arc<EventFd>]>,
}

struct Inner {
    config: ConfigSpace,
    capabilities: Capabilities,
    msix: Msix,
    life: Lifecycle,
}

impl std::fmt::Debug for VirtioPci {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtioPci")
            .field("signals", &self.signals)
            .finish_non_exhaustive()
    }
}

impl VirtioPci {
    /// Puts `device` behind PCI. Its queues are in `memory`; `sink` has its MSI-X vectors (one for
    /// each queue and one for configuration changes are what a driver likes best) and `binder` makes
    /// its kicks cheap.
    ///
    /// # Errors
    /// [`Error::Description`] for a device that can not be described, [`Error::Pci`] for vectors
    /// that can not be, [`Error::Io`] if eventfds can not be had.
    pub fn new(
        mut device: Box<dyn Device>,
        memory: GuestMemory,
        sink: Arc<dyn MsiSink>,
        binder: Arc<dyn EventBinder>,
    ) -> Result<Self, Error> {
        let sizes = device.queue_sizes().to_vec();
        check_queues(&sizes)?;
        let offered = device.features();
        if offered & features::RESERVED != 0 {
            return Err(Error::Description("it offers features of the transport"));
        }
        let vectors = sink.vectors();
        if vectors > layout::MAX_VECTORS {
            return Err(Error::Description("it has more than 256 vectors"));
        }
        let msix = Msix::new(Arc::clone(&sink))?;
        let (config, capabilities) =
            layout::config_space(device.device_type(), sizes.len(), vectors)?;
        let signals = Arc::new(Signals::new(sink, sizes.len()));
        let kicks: Arc<[Arc<EventFd>]> = sizes.iter().map(|_| kick()).collect::<Result<_, _>>()?;
        device.attach(ConfigInterrupt::new(Arc::clone(&signals)));
        let registers = Registers::new(offered | features::TRANSPORT, &sizes, vectors);
        let life = Lifecycle::new(
            device,
            registers,
            Arc::clone(&signals),
            memory,
            Arc::clone(&kicks),
            binder,
        );
        Ok(Self {
            inner: Mutex::new(Inner {
                config,
                capabilities,
                msix,
                life,
            }),
            signals,
            kicks,
        })
    }

    /// Drains and parks the workers. The vCPUs are paused before. Returns when nothing reads or
    /// writes guest memory for the device any more.
    ///
    /// # Errors
    /// [`Error::WorkerGone`] when one has died; the others are paused.
    pub fn pause(&self) -> Result<(), Error> {
        self.lock().life.pause()
    }

    /// Lets parked workers go on; each looks at all its queues.
    ///
    /// # Errors
    /// [`Error::WorkerGone`] when one has died; the others go on.
    pub fn resume(&self) -> Result<(), Error> {
        self.lock().life.resume()
    }

    /// What a saved machine must say about the transport and its queues. The device is paused; its
    /// own state is its own affair.
    pub fn state(&self) -> TransportState {
        let inner = self.lock();
        TransportState::of(&inner.config, &inner.msix, &inner.life)
    }

    /// Continues as `state` says, in a device that was made as the saved one was and has not been
    /// used: its workers are made and parked until [`resume`](Self::resume).
    ///
    /// # Errors
    /// [`Error::State`], [`Error::Pci`]: the device is then to be thrown away.
    pub fn set_state(&self, state: &TransportState) -> Result<(), Error> {
        let inner = &mut *self.lock();
        state.restore(
            &mut inner.config,
            &mut inner.msix,
            inner.capabilities.msix_control,
            &mut inner.life,
        )?;
        inner.config_changed();
        inner.life.restored()
    }

    /// Drains the workers and ends them, and waits for that: before the machine goes away.
    pub fn stop(&self) {
        self.lock().life.stop();
    }

    /// A thread that panicked within left some registers half written, which is the guest's to see.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals a kick for a write that did exit. Returns whether it was one.
    fn notify(&self, offset: u64) -> bool {
        let Some(offset) = offset.checked_sub(layout::NOTIFY) else {
            return false;
        };
        let queue = usize::try_from(offset / layout::NOTIFY_MULTIPLIER).ok();
        if let Some(kick) = queue.and_then(|queue| self.kicks.get(queue)) {
            // A full counter is a kick that waits already.
            let _ = kick.write(1);
        }
        true
    }
}

impl Drop for VirtioPci {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Function for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        let access = {
            let inner = self.lock();
            if !inner.touches_pci_cfg(offset, data.len()) {
                return inner.config.read(offset, data);
            }
            inner.pci_cfg_access()
        };
        // The access goes the way of any other, with the lock released.
        let mut bytes = [0; 4];
        if let Some((at, len)) = access {
            self.read_bar(layout::BAR, at, &mut bytes[..len]);
        }
        let mut inner = self.lock();
        let at = inner.capabilities.pci_cfg + PCI_CFG_DATA;
        inner.config.set(at, &bytes);
        inner.config.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) {
        let (access, bytes) = {
            let mut inner = self.lock();
            inner.config.write(offset, data);
            inner.config_changed();
            if !inner.touches_pci_cfg(offset, data.len()) {
                return;
            }
            let mut bytes = [0; 4];
            let at = inner.capabilities.pci_cfg + PCI_CFG_DATA;
            inner.config.read(at, &mut bytes);
            (inner.pci_cfg_access(), bytes)
        };
        if let Some((at, len)) = access {
            self.write_bar(layout::BAR, at, &bytes[..len]);
        }
    }

    fn bars(&self, each: &mut dyn FnMut(u8, Bar)) {
        let inner = self.lock();
        inner
            .config
            .bars()
            .for_each(|(index, bar)| each(index, bar));
    }

    fn ranges(&self, each: &mut dyn FnMut(BarRange)) {
        self.lock().config.ranges().for_each(each);
    }

    fn read_bar(&self, _bar: u8, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if offset == layout::ISR && !data.is_empty() {
            data[0] = self.signals.take_isr();
            return;
        }
        self.lock().read_bar(offset, data);
    }

    fn write_bar(&self, _bar: u8, offset: u64, data: &[u8]) {
        if !self.notify(offset) {
            self.lock().write_bar(offset, data);
        }
    }

    fn reset(&self) {
        let inner = &mut *self.lock();
        inner.life.stop();
        told(inner.msix.reset());
        inner.config.reset();
        inner.config_changed();
    }

    fn removed(&self) {
        let mut inner = self.lock();
        inner.life.moved(None);
        inner.life.begin_reset();
    }
}

/// Where pci_cfg_data is in its capability (virtio 1.2, 4.1.4.9).
const PCI_CFG_DATA: u16 = 16;

impl Inner {
    /// Whether an access to configuration space reaches pci_cfg_data.
    fn touches_pci_cfg(&self, offset: u16, len: usize) -> bool {
        let data = usize::from(self.capabilities.pci_cfg + PCI_CFG_DATA);
        let start = usize::from(offset);
        start < data + 4 && data < start + len
    }

    /// The offset in the BAR and the width that pci_cfg_data stands for, if it can be one.
    fn pci_cfg_access(&self) -> Option<(u64, usize)> {
        let mut bytes = [0; 12];
        self.config.read(self.capabilities.pci_cfg + 4, &mut bytes);
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let (bar, offset, len) = (bytes[0], u64::from(word(4)), word(8));
        let fits = matches!(len, 1 | 2 | 4)
            && offset.is_multiple_of(len.into())
            && offset < layout::BAR_SIZE;
        (bar == layout::BAR && fits).then_some((offset, len as usize))
    }

    /// Acts on what configuration space says after a write.
    fn config_changed(&mut self) {
        let control = self.config.u16_at(self.capabilities.msix_control.into());
        told(self.msix.set_control(control));
        self.life.signals.set_msix(self.msix.is_enabled());
        let bar = self.config.ranges().next();
        self.life.moved(bar.map(|bar| bar.base + layout::NOTIFY));
    }

    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(at) = within(offset, layout::COMMON, layout::COMMON_SIZE) {
            if at == STATUS {
                self.life.poll_reset();
            }
            self.life.registers.read(at, data, &self.life.signals);
        } else if let Some(at) = within(offset, layout::DEVICE, layout::DEVICE_SIZE) {
            let _held = self.life.signals.hold_config();
            self.life.device.read_config(at, data);
        } else if let Some(at) = within(offset, layout::MSIX_TABLE, layout::MSIX_TABLE_SIZE) {
            self.msix.read_table(at, data);
        } else if let Some(at) = within(offset, layout::MSIX_PBA, layout::MSIX_PBA_SIZE) {
            self.msix.read_pba(at, data);
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) {
        if let Some(at) = within(offset, layout::COMMON, layout::COMMON_SIZE) {
            match data {
                [status] if at == STATUS => self.life.write_status(*status),
                data => self.life.registers.write(at, data, &self.life.signals),
            }
        } else if let Some(at) = within(offset, layout::DEVICE, layout::DEVICE_SIZE) {
            self.life.device.write_config(at, data);
        } else if let Some(at) = within(offset, layout::MSIX_TABLE, layout::MSIX_TABLE_SIZE) {
            told(self.msix.write_table(at, data));
        }
    }
}

fn within(offset: u64, start: u64, size: u64) -> Option<u64> {
    offset.checked_sub(start).filter(|at| *at < size)
}

/// What a guest programs may be more than the machine can do. It gets no interrupt then.
fn told(result: Result<(), MsiError>) {
    if let Err(error) = result {
        log::debug!("{error}");
    }
}

fn check_queues(sizes: &[u16]) -> Result<(), Error> {
    if sizes.len() > layout::MAX_QUEUES {
        return Err(Error::Description("it has too many queues"));
    }
    let fits = |size: &u16| size.is_power_of_two() && *size <= 1 << 15;
    if !sizes.iter().all(fits) {
        return Err(Error::Description(
            "a queue's size is not a power of two up to 32768",
        ));
    }
    Ok(())
}

fn kick() -> Result<Arc<EventFd>, Error> {
    let event = EventFd::new(EFD_NONBLOCK).map_err(|source| Error::Io {
        action: "make an eventfd",
        source,
    })?;
    Ok(Arc::new(event))
}
