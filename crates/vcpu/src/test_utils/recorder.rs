use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sys::ram::Ram;
use crate::{Action, ExitHandler, ExitReason};

/// What a guest did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    PioRead { port: u16, len: usize },
    PioWrite { port: u16, data: Vec<u8> },
    MmioRead { addr: u64, len: usize },
    MmioWrite { addr: u64, data: Vec<u8> },
    IoapicEoi { vector: u8 },
}

/// Records all that guests do; answers reads by [`Recorder::ANSWER`].
#[derive(Debug)]
pub struct Recorder {
    ram: Arc<Ram>,
    accesses: Mutex<Vec<Access>>,
    ends: Mutex<Vec<(u32, ExitReason)>>,
    changed: Condvar,
    count: AtomicU64,
}

impl Recorder {
    /// A write to this port ends the vCPU by [`Action::Shutdown`].
    pub const SHUTDOWN_PORT: u16 = 0xf4;
    /// A write to this port ends the vCPU by [`Action::Reset`].
    pub const RESET_PORT: u16 = 0xf5;
    /// Accesses to this port are counted and not kept.
    pub const COUNT_PORT: u16 = 0xf6;
    /// A read from this port is answered by ones, as if nothing were there.
    pub const EMPTY_PORT: u16 = 0xf7;
    /// What reads return, from its first byte on.
    pub const ANSWER: [u8; 8] = [0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48];
    /// So long [`wait_for`](Self::wait_for) waits.
    const PATIENCE: Duration = Duration::from_secs(20);

    pub(super) fn new(ram: Arc<Ram>) -> Self {
        Self {
            ram,
            accesses: Mutex::default(),
            ends: Mutex::default(),
            changed: Condvar::new(),
            count: AtomicU64::new(0),
        }
    }

    /// All accesses so far.
    pub fn accesses(&self) -> Vec<Access> {
        self.lock().clone()
    }

    /// How often [`COUNT_PORT`](Self::COUNT_PORT) was accessed.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// The vCPUs that have ended, and why.
    pub fn ends(&self) -> Vec<(u32, ExitReason)> {
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until `access` has happened.
    ///
    /// # Panics
    ///
    /// When it has not after 20 seconds, or can not any more because a vCPU has ended.
    pub fn wait_for(&self, access: &Access) {
        let waits = |all: &mut Vec<Access>| !all.contains(access) && self.ends().is_empty();
        let (all, _) = self
            .changed
            .wait_timeout_while(self.lock(), Self::PATIENCE, waits)
            .unwrap_or_else(PoisonError::into_inner);
        assert!(
            all.contains(access),
            "no {access:?} among {all:?}; ended: {:?}",
            self.ends()
        );
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Access>> {
        self.accesses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, access: Access) {
        self.lock().push(access);
        self.changed.notify_all();
    }
}

impl ExitHandler for Recorder {
    fn pio_read(&self, port: u16, data: &mut [u8]) {
        match port {
            Self::EMPTY_PORT => return,
            Self::COUNT_PORT => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.record(Access::PioRead {
                port,
                len: data.len(),
            }),
        }
        data.copy_from_slice(&Self::ANSWER[..data.len()]);
    }

    fn pio_write(&self, port: u16, data: &[u8]) -> Action {
        match port {
            Self::SHUTDOWN_PORT => return Action::Shutdown,
            Self::RESET_PORT => return Action::Reset,
            Self::COUNT_PORT => {
                self.count.fetch_add(1, Ordering::Relaxed);
            }
            _ => self.record(Access::PioWrite {
                port,
                data: data.to_vec(),
            }),
        }
        Action::Resume
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        self.record(Access::MmioRead {
            addr,
            len: data.len(),
        });
        data.copy_from_slice(&Self::ANSWER[..data.len()]);
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) -> Action {
        self.record(Access::MmioWrite {
            addr,
            data: data.to_vec(),
        });
        Action::Resume
    }

    fn ioapic_eoi(&self, vector: u8) {
        self.record(Access::IoapicEoi { vector });
    }

    fn read_guest(&self, gpa: u64, out: &mut [u8]) -> bool {
        self.ram.read(gpa, out)
    }

    fn ended(&self, vcpu: u32, reason: &ExitReason) {
        let _waiters = self.lock();
        self.ends
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((vcpu, reason.clone()));
        self.changed.notify_all();
    }
}
