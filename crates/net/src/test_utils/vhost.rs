//! A stand-in for the kernel's vhost-net.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io;
use std::os::fd::RawFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};

use strata_memory::GuestMemory;
use strata_virtio::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::Vhost;

/// Takes rings as the kernel does, and serves as many chains as it is asked to. Clones are the same
/// one, so that a test can keep one of them.
#[derive(Clone, Debug)]
pub struct MockVhost(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    rings: Mutex<Rings>,
    error: EventFd,
}

#[derive(Debug, Default)]
struct Rings {
    refuses: bool,
    /// The rings that it has, and the memory that they are in.
    served: Option<(GuestMemory, [QueueState; 2])>,
    features: u64,
}

impl Default for MockVhost {
    fn default() -> Self {
        Self(Arc::new(Shared {
            rings: Mutex::default(),
            error: EventFd::new(EFD_NONBLOCK).unwrap(),
        }))
    }
}

impl MockVhost {
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.rings.lock().unwrap()
    }

    /// From now on it takes no rings.
    pub fn refuse(&self) {
        self.rings().refuses = true;
    }

    /// Where the receive and the send queue are, while it has them.
    pub fn serves(&self) -> Option<[QueueState; 2]> {
        let rings = self.rings();
        rings.served.as_ref().map(|(_, rings)| *rings)
    }

    /// The features that it was last started with.
    pub fn features(&self) -> u64 {
        self.rings().features
    }

    /// Uses the next available chain of the receive queue (0) or the send queue (1), with `written`
    /// bytes in it. It must have them.
    pub fn use_chain(&self, queue: usize, written: u32) {
        let mut rings = self.rings();
        let (memory, states) = rings.served.as_mut().expect("rings");
        let ring = &mut states[queue];
        let entry = |index: u16| u64::from(index & (ring.size - 1));
        let at = |address: u64| GuestAddress(address);
        let head: u16 = memory
            .read_obj(at(ring.avail_ring + 4 + 2 * entry(ring.next_avail)))
            .unwrap();
        let element = at(ring.used_ring + 4 + 8 * entry(ring.next_used));
        memory
            .write_obj([u32::from(head), written], element)
            .unwrap();
        ring.next_avail = ring.next_avail.wrapping_add(1);
        ring.next_used = ring.next_used.wrapping_add(1);
        let index = at(ring.used_ring + 2);
        memory
            .store(ring.next_used, index, Ordering::Release)
            .unwrap();
    }

    /// Says that it can make no sense of a ring.
    pub fn fail(&self) {
        self.0.error.write(1).unwrap();
    }
}

impl Vhost for MockVhost {
    fn start(&mut self, _endpoint: RawFd, features: u64, queues: [&Queue; 2]) -> io::Result<()> {
        let mut rings = self.rings();
        if rings.refuses {
            return Err(io::ErrorKind::Unsupported.into());
        }
        assert!(rings.served.is_none(), "it has rings already");
        rings.features = features;
        rings.served = Some((queues[0].memory().clone(), queues.map(Queue::state)));
        Ok(())
    }

    fn stop(&mut self) -> io::Result<[u16; 2]> {
        let (_, states) = self.rings().served.take().expect("rings");
        Ok(states.map(|ring| ring.next_avail))
    }

    fn error_fd(&self) -> &EventFd {
        &self.0.error
    }
}
