//! Saved machine state: guest data past the end of the disk, which a snapshot takes along.

use super::Image;
use super::state::State;
use super::write::Area;
use crate::error::{Error, Result};
use crate::format::geometry::MAX_L1_BYTES;

impl Image {
    /// Where machine state begins among the guest offsets.
    fn vm_state_start(&self) -> u64 {
        self.geometry.l1_entries(self.size()) << self.geometry.l1_shift()
    }

    fn vm_state_range(&self, position: u64, length: u64) -> Result<u64> {
        let start = self.vm_state_start();
        let at = start.checked_add(position);
        let end = at.and_then(|at| at.checked_add(length));
        let limit = (MAX_L1_BYTES / 8) << self.geometry.l1_shift().min(41);
        match (at, end) {
            (Some(at), Some(end)) if end <= limit.min(i64::MAX as u64) => Ok(at),
            _ => Err(Error::OutOfRange {
                offset: position,
                length,
                size: limit - start.min(limit),
            }),
        }
    }

    /// Writes machine state at a position within it. [`Image::create_snapshot`] stores it and
    /// clears it from the disk.
    ///
    /// # Errors
    /// As [`Image::write_at`].
    pub fn write_vm_state(&self, buf: &[u8], position: u64) -> Result<()> {
        let _held = self.hold_size();
        let at = self.vm_state_range(position, buf.len() as u64)?;
        self.check_write(0, 0)?;
        {
            let mut state = self.lock_alone()?;
            let entries = self.geometry.l1_entries(at + buf.len() as u64);
            if entries > self.l1.len() {
                self.move_l1(&mut state, entries)?;
            }
        }
        self.write_in(Area::PastEnd, buf, at)
    }

    /// Reads machine state of the disk as it is, after [`Image::apply_snapshot`].
    ///
    /// # Errors
    /// As [`Image::read_at`].
    pub fn read_vm_state(&self, buf: &mut [u8], position: u64) -> Result<()> {
        let at = self.vm_state_range(position, buf.len() as u64)?;
        self.read_unchecked(buf, at)
    }

    /// Drops the machine state from the active tables.
    pub(crate) fn discard_vm_state(&self, state: &mut State, length: u64) -> Result<()> {
        let start = self.vm_state_start();
        let end = start
            .saturating_add(length)
            .next_multiple_of(self.geometry.cluster_size());
        let end = end.min(self.l1.len() << self.geometry.l1_shift());
        self.drop_locked(state, start, end)
    }
}
