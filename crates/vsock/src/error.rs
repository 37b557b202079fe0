//! Why a device can not be made.

use std::io;
use std::path::PathBuf;

/// Why there can be no such device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A context id that no guest can have (virtio 1.2, 5.10.4).
    #[error("{0} can not be a guest's context id: 3 to 4294967294 can")]
    Cid(u64),
    /// A path that leaves no room for a port's number in a socket's address, or is none.
    #[error(
        "{path} can not be a socket's path: it has 1 to {max} bytes, since \"_PORT\" follows it",
        path = path.display()
    )]
    Path {
        /// The path.
        path: PathBuf,
        /// The bytes that it may have.
        max: usize,
    },
    /// The host's socket can not be made.
    #[error(
        "the socket {path} can not be made: {source}; name a path that does not exist yet, in a \
         directory that does", path = path.display()
    )]
    Bind {
        /// Its path.
        path: PathBuf,
        /// What the operating system answered.
        source: io::Error,
    },
    /// There is no eventfd to be had.
    #[error("an eventfd can not be made: {0}")]
    EventFd(#[source] io::Error),
}
