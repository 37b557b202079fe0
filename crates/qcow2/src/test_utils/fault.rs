//! I/O errors.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::History;
use crate::storage::Storage;

/// What a write that fails leaves whole.
const SECTOR: u64 = 512;

/// What fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every kind of I/O, with EIO. Of a failed write, the first half of its sectors reaches the
    /// disk.
    Io,
    /// Flushing, with EIO, and what was written before it is lost for all later flushes.
    LostFlush,
    /// Writing and growing, with ENOSPC, as on a full disk.
    NoSpace,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    /// Writes, and what takes space.
    Write,
    Flush,
    Other,
}

#[derive(Default)]
struct Plan {
    /// The fault, the operations that still succeed, and whether all after it fail too.
    next: Option<(Fault, u64, bool)>,
    failures: u64,
}

/// Says when the I/O of some disks fails.
#[derive(Default)]
pub struct Faults {
    plan: Mutex<Plan>,
    history: Option<Arc<History>>,
}

impl Faults {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the operation after the next `count` of the kinds that `fault` concerns fail, and
    /// all after it if `forever`.
    pub fn arm(&self, fault: Fault, count: u64, forever: bool) {
        *self.plan() = Plan {
            next: Some((fault, count, forever)),
            failures: 0,
        };
    }

    /// Nothing fails from now on. Returns how many operations have failed since
    /// [`Faults::arm`].
    pub fn heal(&self) -> u64 {
        let mut plan = self.plan();
        plan.next = None;
        plan.failures
    }

    /// Faults on disks whose `history` learns of lost flushes.
    pub fn new(history: &Arc<History>) -> Self {
        Self {
            plan: Mutex::default(),
            history: Some(Arc::clone(history)),
        }
    }

    fn check(&self, operation: Operation) -> io::Result<()> {
        let mut plan = self.plan();
        let Some((fault, count, forever)) = plan.next else {
            return Ok(());
        };
        let concerned = match fault {
            Fault::Io => true,
            Fault::LostFlush => operation == Operation::Flush,
            Fault::NoSpace => operation == Operation::Write,
        };
        if !concerned {
            return Ok(());
        }
        if count > 0 {
            plan.next = Some((fault, count - 1, forever));
            return Ok(());
        }
        plan.failures += 1;
        plan.next = forever.then_some((fault, 0, true));
        if let (Fault::LostFlush, Some(history)) = (fault, &self.history) {
            history.lose();
        }
        Err(io::Error::from_raw_os_error(match fault {
            Fault::Io | Fault::LostFlush => libc::EIO,
            Fault::NoSpace => libc::ENOSPC,
        }))
    }
}

/// A disk whose operations fail when told to.
pub struct FaultDisk {
    inner: Arc<dyn Storage>,
    faults: Arc<Faults>,
}

impl FaultDisk {
    /// Passes on to `inner` what `faults` lets succeed.
    pub fn new(inner: Arc<dyn Storage>, faults: &Arc<Faults>) -> Self {
        Self {
            inner,
            faults: Arc::clone(faults),
        }
    }
}

impl Storage for FaultDisk {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.faults.check(Operation::Other)?;
        self.inner.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if let Err(error) = self.faults.check(Operation::Write) {
            if error.raw_os_error() == Some(libc::EIO) {
                let data: Vec<u8> = bufs.iter().flat_map(|buf| buf.iter()).copied().collect();
                let middle = offset + data.len() as u64 / 2;
                let half = (middle - middle % SECTOR).saturating_sub(offset) as usize;
                self.inner
                    .write_vectored_at(&[IoSlice::new(&data[..half])], offset)?;
            }
            return Err(error);
        }
        self.inner.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.faults.check(Operation::Flush)?;
        self.inner.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.faults.check(Operation::Other)?;
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let grows = len > self.inner.len()?;
        self.faults.check(if grows {
            Operation::Write
        } else {
            Operation::Other
        })?;
        self.inner.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check(Operation::Other)?;
        self.inner.discard(offset, len)
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.faults.check(Operation::Write)?;
        self.inner.write_zeroes(offset, len, unmap)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.faults.check(Operation::Write)?;
        self.inner.allocate(offset, len)
    }
}
