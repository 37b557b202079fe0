//! The system calls that the standard library does not wrap: all of this crate's unsafe code.
#![allow(unsafe_code)]

use std::ffi::OsStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;

use libc::{c_int, iovec, msghdr, sockaddr_un};
use strata_virtio::IoVec;

/// Bytes of the longest path that a socket's address holds, with the zero that ends it.
pub(crate) const MAX_PATH: usize = size_of::<sockaddr_un>() - offset_of!(sockaddr_un, sun_path);

/// Buffers that one system call takes: UIO_MAXIOV of linux/uio.h.
const MAX_BUFFERS: usize = 1024;

/// Connects to the unix socket at `path`, or fails at once: with
/// [`WouldBlock`](io::ErrorKind::WouldBlock) where its owner is slow to accept. The standard
/// library would wait for that.
pub(crate) fn connect(path: &OsStr) -> io::Result<UnixStream> {
    let path = path.as_bytes();
    if path.len() >= MAX_PATH || path.contains(&0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut address = sockaddr_un {
        sun_family: libc::AF_UNIX as libc::sa_family_t,
        sun_path: [0; MAX_PATH],
    };
    for (to, from) in address.sun_path.iter_mut().zip(path) {
        *to = from.cast_signed();
    }
    let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes numbers only.
    let fd = unsafe { libc::socket(libc::AF_UNIX, kind, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new, and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let len = size_of::<sockaddr_un>() as libc::socklen_t;
    // SAFETY: `address` is an initialized address of `len` bytes.
    let status = unsafe { libc::connect(fd, (&raw const address).cast(), len) };
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket.into())
}

/// Sends guest memory into a socket without waiting, and without a signal where nobody reads any
/// more. Returns the bytes sent.
pub(crate) fn send(socket: &UnixStream, buffers: &[IoVec]) -> io::Result<usize> {
    transfer(socket.as_raw_fd(), buffers, |fd, message| {
        // SAFETY: the message has no address and no control data; its buffers are guest memory that
        // was checked when its chain was popped, which stays mapped for as long as the chain's
        // queue lives, and whose bytes may be anything at any time.
        unsafe { libc::sendmsg(fd, message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) }
    })
}

/// Receives from a socket into guest memory without waiting. Returns the bytes received, 0 at the
/// stream's end. The caller marks them dirty.
pub(crate) fn receive(socket: &UnixStream, buffers: &[IoVec]) -> io::Result<usize> {
    transfer(socket.as_raw_fd(), buffers, |fd, message| {
        // SAFETY: as for sendmsg; and nobody in this process holds a reference to guest memory.
        unsafe { libc::recvmsg(fd, message, libc::MSG_DONTWAIT) }
    })
}

fn transfer(
    fd: RawFd,
    buffers: &[IoVec],
    call: impl Fn(c_int, &mut msghdr) -> isize,
) -> io::Result<usize> {
    let buffers = &buffers[..buffers.len().min(MAX_BUFFERS)];
    let raw: &[iovec] = IoVec::as_raw(buffers);
    // SAFETY: an all-zero msghdr is a valid one: no address, no buffers, no control data.
    let mut message: msghdr = unsafe { std::mem::zeroed() };
    // The kernel reads the array only.
    message.msg_iov = raw.as_ptr().cast_mut();
    message.msg_iovlen = raw.len();
    loop {
        match usize::try_from(call(fd, &mut message)) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_program_that_is_slow_to_accept_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("slow");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: listen takes numbers only.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 1) }, 0);
        let mut waiting = Vec::new();
        let refused = loop {
            match connect(path.as_os_str()) {
                Ok(stream) => waiting.push(stream),
                Err(error) => break error,
            }
            assert!(waiting.len() < 10, "the kernel holds them all");
        };
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
    }
}
