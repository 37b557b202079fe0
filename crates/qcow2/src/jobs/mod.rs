//! Operations over whole disks.

mod amend;
mod commit;
mod measure;
mod rebase;

pub use amend::AmendOptions;
pub use commit::{commit, copy_range};
pub use measure::{Measured, measure};
pub use rebase::rebase;

/// Hears how many bytes of how many are done, and may stop the work by returning false.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

use crate::error::{Error, Result};

/// Tells `progress`; an error if it wants to stop.
pub(crate) fn tell(progress: Progress<'_>, done: u64, all: u64) -> Result<()> {
    if progress(done, all) {
        Ok(())
    } else {
        Err(Error::Invalid("cancelled".into()))
    }
}
