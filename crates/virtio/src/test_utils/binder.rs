//! ioeventfds without KVM.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::EventFd;

use crate::EventBinder;

/// A table from addresses to events.
#[derive(Debug, Default)]
pub struct MockBinder {
    bound: Mutex<BTreeMap<u64, EventFd>>,
}

impl MockBinder {
    /// Signals what is bound at `address`, as a guest's write there would; false if nothing is.
    pub fn signal(&self, address: u64) -> bool {
        let bound = self.lock();
        let event = bound.get(&address);
        event.is_some_and(|event| event.write(1).is_ok())
    }

    /// The event that is bound at `address`, for a VM whose guest kicks.
    pub fn event(&self, address: u64) -> Option<EventFd> {
        self.lock().get(&address)?.try_clone().ok()
    }

    /// The addresses that are bound, ascending.
    pub fn addresses(&self) -> Vec<u64> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, EventFd>> {
        self.bound.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EventBinder for MockBinder {
    fn bind(&self, address: u64, event: &EventFd) -> io::Result<()> {
        let event = event.try_clone()?;
        let mut bound = self.lock();
        if bound.contains_key(&address) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        bound.insert(address, event);
        Ok(())
    }

    fn unbind(&self, address: u64, _event: &EventFd) -> io::Result<()> {
        match self.lock().remove(&address) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}
