//! The MSI-X table and its pending bits (PCI Local Bus 3.0, 6.8.2), which a function has in a BAR.

use std::sync::Arc;

use crate::error::Error;
use crate::msi::{MsiError, MsiMessage, MsiSink};

/// Message control: the function's vectors are on; all are masked.
const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: the vector is masked.
const MASK: u32 = 1;
const ENTRY: u64 = 16;

/// One vector, to save it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsixVectorState {
    /// The message that the driver has written.
    pub message: MsiMessage,
    /// Whether the driver has masked the vector.
    pub masked: bool,
}

/// All vectors of a function, to save them. Whether the function's MSI-X is on is in its
/// configuration space.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct MsixState {
    /// By vector.
    pub vectors: Vec<MsixVectorState>,
}

/// The MSI-X vectors of a function.
#[derive(Debug)]
pub struct Msix {
    vectors: Vec<MsixVectorState>,
    control: u16,
    sink: Arc<dyn MsiSink>,
}

impl Msix {
    /// The vectors of `sink`, all masked, and off as a whole.
    ///
    /// # Errors
    /// [`Error::Vectors`] if their number is not 1 to 2048.
    pub fn new(sink: Arc<dyn MsiSink>) -> Result<Self, Error> {
        let vectors = sink.vectors();
        if !(1..=2048).contains(&vectors) {
            return Err(Error::Vectors { vectors });
        }
        let masked = MsixVectorState {
            message: MsiMessage::default(),
            masked: true,
        };
        Ok(Self {
            vectors: vec![masked; vectors.into()],
            control: 0,
            sink,
        })
    }

    /// Bytes of the table.
    pub fn table_size(&self) -> u64 {
        self.vectors.len() as u64 * ENTRY
    }

    /// Whether the driver has switched MSI-X on.
    pub fn is_enabled(&self) -> bool {
        self.control & ENABLE != 0
    }

    /// Reads the table at `offset`, in any width.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            let entry = usize::try_from(at / ENTRY).ok();
            let vector = entry.and_then(|entry| self.vectors.get(entry));
            *byte = vector.map_or(0, |vector| entry_bytes(vector)[(at % ENTRY) as usize]);
        }
    }

    /// Writes the table at `offset`, in any width that stays in one entry; others have no effect
    /// (6.8.2: software writes aligned double or quad words).
    ///
    /// # Errors
    /// [`MsiError`] from the sink. The table has what was written.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) -> Result<(), MsiError> {
        let Ok(index) = u16::try_from(offset / ENTRY) else {
            return Ok(());
        };
        let Some(vector) = self.vectors.get_mut(usize::from(index)) else {
            return Ok(());
        };
        let mut bytes = entry_bytes(vector);
        let at = (offset % ENTRY) as usize;
        let Some(to) = bytes.get_mut(at..at + data.len()) else {
            return Ok(());
        };
        to.copy_from_slice(data);
        let before = std::mem::replace(vector, entry(&bytes));
        let after = *vector;
        self.changed(index, before, after)
    }

    /// Reads the pending bits at `offset`, in any width.
    pub fn read_pba(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (byte, at) in data.iter_mut().zip(offset..=u64::MAX) {
            *byte = (0..8).fold(0, |bits, bit| {
                let vector = at.checked_mul(8).map(|first| first + bit);
                let pending = vector.is_some_and(|vector| self.is_pending(vector));
                bits | u8::from(pending) << bit
            });
        }
    }

    /// Takes the message control register as it is after a write to configuration space.
    ///
    /// # Errors
    /// [`MsiError`] from the sink.
    pub fn set_control(&mut self, control: u16) -> Result<(), MsiError> {
        let was_open = self.is_open();
        self.control = control;
        match (was_open, self.is_open()) {
            (false, true) => self.open_all(),
            (true, false) => self.close_all(),
            _ => Ok(()),
        }
    }

    /// Masks everything and forgets it, as a reset of the function does.
    ///
    /// # Errors
    /// [`MsiError`] from the sink.
    pub fn reset(&mut self) -> Result<(), MsiError> {
        let closed = self.set_control(0);
        self.vectors.fill(MsixVectorState {
            message: MsiMessage::default(),
            masked: true,
        });
        closed
    }

    /// The vectors, to save them.
    pub fn state(&self) -> MsixState {
        MsixState {
            vectors: self.vectors.clone(),
        }
    }

    /// Continues with the vectors of a saved function, whose message control register is `control`.
    /// What was pending is in the sink's own state.
    ///
    /// # Errors
    /// [`Error::State`] if the number of vectors is another one, [`Error::Msi`] from the sink.
    pub fn set_state(&mut self, state: &MsixState, control: u16) -> Result<(), Error> {
        if state.vectors.len() != self.vectors.len() {
            return Err(Error::State("the number of MSI-X vectors differs"));
        }
        self.set_control(0)?;
        self.vectors.clone_from(&state.vectors);
        Ok(self.set_control(control)?)
    }

    /// Whether vectors that are not masked themselves are delivered.
    fn is_open(&self) -> bool {
        self.control & (ENABLE | FUNCTION_MASK) == ENABLE
    }

    fn is_pending(&self, vector: u64) -> bool {
        let index = u16::try_from(vector).ok();
        let Some((index, state)) =
            index.and_then(|index| Some((index, self.vectors.get(usize::from(index))?)))
        else {
            return false;
        };
        (state.masked || !self.is_open()) && self.sink.is_pending(index)
    }

    fn changed(
        &self,
        index: u16,
        before: MsixVectorState,
        after: MsixVectorState,
    ) -> Result<(), MsiError> {
        if !self.is_open() || before == after {
            return Ok(());
        }
        if !after.masked && (before.masked || before.message != after.message) {
            self.sink.set_messages(&[(index, after.message)])?;
        }
        if before.masked == after.masked {
            return Ok(());
        }
        self.sink.set_masked(index, after.masked)
    }

    fn unmasked(&self) -> impl Iterator<Item = (u16, MsiMessage)> {
        let vectors = (0..).zip(&self.vectors);
        vectors
            .filter(|(_, vector)| !vector.masked)
            .map(|(index, vector)| (index, vector.message))
    }

    fn open_all(&self) -> Result<(), MsiError> {
        let open: Vec<_> = self.unmasked().collect();
        if open.is_empty() {
            return Ok(());
        }
        self.sink.set_messages(&open)?;
        open.iter()
            .try_for_each(|(index, _)| self.sink.set_masked(*index, false))
    }

    fn close_all(&self) -> Result<(), MsiError> {
        self.unmasked()
            .try_for_each(|(index, _)| self.sink.set_masked(index, true))
    }
}

fn entry_bytes(vector: &MsixVectorState) -> [u8; ENTRY as usize] {
    let mut bytes = [0; ENTRY as usize];
    bytes[..8].copy_from_slice(&vector.message.address.to_le_bytes());
    bytes[8..12].copy_from_slice(&vector.message.data.to_le_bytes());
    bytes[12..].copy_from_slice(&u32::from(vector.masked).to_le_bytes());
    bytes
}

fn entry(bytes: &[u8; ENTRY as usize]) -> MsixVectorState {
    let word =
        |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    MsixVectorState {
        message: MsiMessage {
            address: u64::from(word(0)) | u64::from(word(4)) << 32,
            data: word(8),
        },
        masked: word(12) & MASK != 0,
    }
}
