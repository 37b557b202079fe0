//! The host's side: the socket that programs connect to, and those that they listen at.

use std::ffi::OsString;
use std::fmt;
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::sys;

/// Bytes that `_PORT` takes at most.
const SUFFIX: usize = "_4294967295".len();

/// The listening socket at `PATH`, and the way to those at `PATH_PORT`.
#[derive(Debug)]
pub(crate) struct Host {
    listener: UnixListener,
    path: PathBuf,
}

impl Host {
    /// Listens at `path`, where nothing may be but a socket that nobody listens at any more.
    pub(crate) fn bind(path: &Path) -> Result<Self, Error> {
        // A zero ends the address.
        let max = sys::MAX_PATH - 1 - SUFFIX;
        if !(1..=max).contains(&path.as_os_str().len()) {
            let path = path.to_owned();
            return Err(Error::Path { path, max });
        }
        let bound = remove_left_over(path).and_then(|()| UnixListener::bind(path));
        let listener = bound.and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok(listener)
        });
        Ok(Self {
            listener: listener.map_err(|source| Error::Bind {
                path: path.to_owned(),
                source,
            })?,
            path: path.to_owned(),
        })
    }

    /// The next program that has connected, if there is one. An error says that it waits still: the
    /// host has no more open files or memory.
    pub(crate) fn accept(&self) -> io::Result<Option<UnixStream>> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) if stream.set_nonblocking(true).is_ok() => {
                    return Ok(Some(stream));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Connects to the program that listens at a port, if there is one and it accepts at once.
    pub(crate) fn connect(&self, port: u32) -> io::Result<UnixStream> {
        let mut path = OsString::from(&self.path);
        path.push(format!("_{port}"));
        sys::connect(&path)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path.display().fmt(f)
    }
}

impl AsRawFd for Host {
    fn as_raw_fd(&self) -> RawFd {
        self.listener.as_raw_fd()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes a socket that a process left there when it was killed.
fn remove_left_over(path: &Path) -> io::Result<()> {
    let is_socket = path
        .symlink_metadata()
        .is_ok_and(|meta| meta.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == ErrorKind::ConnectionRefused;
    if is_socket && sys::connect(path.as_os_str()).is_err_and(refused) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
