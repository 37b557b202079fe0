//! An interrupt sink that remembers, for tests.

use std::sync::{Mutex, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::{MsiError, MsiMessage, MsiSink};

/// What a [`RecordingSink`] knows of one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecordedVector {
    /// The message that was last set.
    pub message: Option<MsiMessage>,
    /// Whether it is open.
    pub unmasked: bool,
}

/// Vectors whose interrupts are counted in their eventfds.
#[derive(Debug)]
pub struct RecordingSink {
    events: Vec<EventFd>,
    vectors: Mutex<Vec<RecordedVector>>,
}

impl RecordingSink {
    /// A sink of `vectors` vectors.
    ///
    /// # Panics
    /// If the host has no eventfd left.
    #[allow(clippy::unwrap_used)]
    pub fn new(vectors: u16) -> Self {
        Self {
            events: (0..vectors)
                .map(|_| EventFd::new(EFD_NONBLOCK).unwrap())
                .collect(),
            vectors: Mutex::new(vec![RecordedVector::default(); vectors.into()]),
        }
    }

    /// What was said of `vector`.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn vector(&self, vector: u16) -> RecordedVector {
        self.lock()[usize::from(vector)]
    }

    /// How often `vector` was triggered since the last call.
    ///
    /// # Panics
    /// If there is no such vector.
    pub fn take(&self, vector: u16) -> u64 {
        self.events[usize::from(vector)].read().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<RecordedVector>> {
        self.vectors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MsiSink for RecordingSink {
    fn vectors(&self) -> u16 {
        self.events.len() as u16
    }

    fn set_messages(&self, messages: &[(u16, MsiMessage)]) -> Result<(), MsiError> {
        let mut vectors = self.lock();
        for (vector, message) in messages {
            vectors[usize::from(*vector)].message = Some(*message);
        }
        Ok(())
    }

    fn set_masked(&self, vector: u16, masked: bool) -> Result<(), MsiError> {
        self.lock()[usize::from(vector)].unmasked = !masked;
        Ok(())
    }

    /// Always false: reading an eventfd would take what it counts.
    fn is_pending(&self, _vector: u16) -> bool {
        false
    }

    fn event_fd(&self, vector: u16) -> Option<&EventFd> {
        self.events.get(usize::from(vector))
    }
}
