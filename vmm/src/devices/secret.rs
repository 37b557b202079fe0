//! Secrets: passphrases that disks name, read when they are defined.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use strata_block::LuksKey;
use zeroize::Zeroizing;

use crate::config::SecretConfig;
use crate::error::Error;

/// More than any passphrase; a file named by mistake is not read whole.
const MAX_FILE: usize = 64 << 10;

/// The secrets, by name.
#[derive(Debug, Default)]
pub struct Secrets(RefCell<BTreeMap<String, LuksKey>>);

impl Secrets {
    /// Reads all of a configuration.
    ///
    /// # Errors
    /// As [`Secrets::add`].
    pub(super) fn create(configs: &[SecretConfig]) -> Result<Self, Error> {
        let secrets = Self::default();
        configs.iter().try_for_each(|config| secrets.add(config))?;
        Ok(secrets)
    }

    /// Reads one and keeps it.
    ///
    /// # Errors
    /// [`Error::TakenSecret`], [`Error::File`].
    pub fn add(&self, config: &SecretConfig) -> Result<(), Error> {
        let mut secrets = self.0.borrow_mut();
        if secrets.contains_key(&config.id) {
            return Err(Error::TakenSecret(config.id.clone()));
        }
        let key = match (&config.file, &config.data) {
            (Some(path), _) => read(&config.id, path)?,
            (None, data) => LuksKey::new(data.as_ref().map_or(&[], |data| data.as_bytes())),
        };
        secrets.insert(config.id.clone(), key);
        Ok(())
    }

    /// Forgets one. Disks that it has opened stay open.
    ///
    /// # Errors
    /// [`Error::NoSecret`].
    pub fn remove(&self, id: &str) -> Result<(), Error> {
        let removed = self.0.borrow_mut().remove(id);
        removed
            .map(drop)
            .ok_or_else(|| Error::NoSecret(id.to_owned()))
    }

    /// The key with this name.
    ///
    /// # Errors
    /// [`Error::NoSecret`].
    pub(super) fn key(&self, id: &str) -> Result<LuksKey, Error> {
        let key = self.0.borrow().get(id).cloned();
        key.ok_or_else(|| Error::NoSecret(id.to_owned()))
    }
}

fn read(id: &str, path: &Path) -> Result<LuksKey, Error> {
    // One allocation, so that no copy is left behind by a larger one.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE + 1));
    File::open(path)
        .and_then(|file| file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes))
        .and_then(|length| match length {
            0..=MAX_FILE => Ok(()),
            _ => Err(io::ErrorKind::FileTooLarge.into()),
        })
        .map_err(|source| Error::File {
            what: "secret",
            path: path.to_owned(),
            remedy: "name a file that you may read, with a passphrase in it and nothing else",
            source,
        })?;
    if bytes.ends_with(b"\n") {
        log::warn!("the secret {id} ends with a line's end, which is a part of it");
    }
    Ok(LuksKey::new(&bytes))
}
