//! The key of an encrypted file: a passphrase that opens its LUKS header.

use std::sync::Arc;

use strata_qcow2::{Error, Result, Storage, Unlock, Unlocked, luks};
use zeroize::Zeroizing;

/// A passphrase, for [`Disk::open_with_keys`](super::Disk::open_with_keys): it opens LUKS files, and
/// qcow2 images with a LUKS payload. That takes as long as the volume's maker chose, often a second
/// or two. The passphrase is wiped from memory with the last copy of the key.
#[derive(Clone)]
pub struct LuksKey(Arc<Zeroizing<Vec<u8>>>);

impl LuksKey {
    /// The key of this passphrase: any bytes.
    pub fn new(passphrase: &[u8]) -> Self {
        Self(Arc::new(Zeroizing::new(passphrase.to_vec())))
    }
}

impl std::fmt::Debug for LuksKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LuksKey").finish_non_exhaustive()
    }
}

impl Unlock for LuksKey {
    fn unlock(&self, header: &dyn Storage, _length: u64) -> Result<Unlocked> {
        luks::unlock(header, &self.0).map_err(refused)
    }
}

fn refused(error: strata_luks::Error) -> Error {
    Error::Encryption(match error {
        strata_luks::Error::Passphrase => {
            "none of its key slots opens with this passphrase: give the right one".to_owned()
        }
        error => error.to_string(),
    })
}
