//! Changes of configuration files that can be taken back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// What a file is to hold (or held); `None` where there is to be none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileContents {
    pub path: PathBuf,
    pub contents: Option<Vec<u8>>,
}

impl FileContents {
    /// What `path` holds now.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let contents = match fs::read(path) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(file_error("read", path, source)),
        };
        Ok(Self {
            path: path.to_owned(),
            contents,
        })
    }

    /// Makes it so: a reader, or a crash, sees the old contents or the new.
    pub(crate) fn write(&self) -> Result<(), Error> {
        match &self.contents {
            Some(bytes) => replace(&self.path, bytes),
            None => match fs::remove_file(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            },
        }
        .map_err(|source| file_error("write", &self.path, source))
    }
}

/// Replaces the file at `path`, keeping its permissions.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".strata-new");
    let new = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&new)?;
        if let Ok(old) = fs::metadata(path) {
            file.set_permissions(old.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

pub(crate) fn file_error(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File {
        action,
        path: path.to_owned(),
        source,
    }
}
