//! The system calls that no crate in use wraps: all of this crate's unsafe code.
#![allow(unsafe_code)]

pub(crate) mod vhost;

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
#[cfg(feature = "bridge")]
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use libc::{c_int, c_ulong};
use strata_virtio::IoVec;

// linux/if_tun.h; libc has no names for these.
const TUNSETIFF: c_ulong = 0x4004_54ca;
const TUNSETOFFLOAD: c_ulong = 0x4004_54d0;
const TUNGETIFF: c_ulong = 0x8004_54d2;
const TUNSETVNETHDRSZ: c_ulong = 0x4004_54d8;
const TUNSETQUEUE: c_ulong = 0x4004_54d9;

/// `struct ifreq` as the tun driver reads and writes it: a name that a zero ends, then flags.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct TunRequest {
    pub name: [u8; libc::IFNAMSIZ],
    pub flags: u16,
    rest: [u8; 22],
}

impl TunRequest {
    /// `name` may be a pattern such as `tap%d`; what does not fit is cut off.
    pub(crate) fn new(name: &str, flags: u16) -> Self {
        let mut bytes = [0; libc::IFNAMSIZ];
        for (to, from) in bytes.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
            *to = from;
        }
        Self {
            name: bytes,
            flags,
            rest: [0; 22],
        }
    }

    pub(crate) fn name(&self) -> String {
        let len = self.name.iter().position(|&byte| byte == 0);
        String::from_utf8_lossy(&self.name[..len.unwrap_or(self.name.len())]).into_owned()
    }
}

fn check(status: c_int) -> io::Result<()> {
    if status < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Attaches the open `/dev/net/tun` to the interface of `request`, which then says its real name.
pub(crate) fn tun_attach(tun: &File, request: &mut TunRequest) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes one ifreq, which `request` is as large as.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, std::ptr::from_mut(request)) })
}

/// The interface that `fd` is attached to. An error when it is no tun descriptor.
pub(crate) fn tun_attached(fd: BorrowedFd<'_>) -> io::Result<TunRequest> {
    let mut request = TunRequest::new("", 0);
    // SAFETY: TUNGETIFF writes one ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, &raw mut request) })?;
    Ok(request)
}

pub(crate) fn tun_set_offload(fd: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, c_ulong::from(flags)) })
}

pub(crate) fn tun_set_header_size(fd: BorrowedFd<'_>, size: c_int) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ, &raw const size) })
}

/// Attaches or detaches one queue of a tap, as the flags of `request` say.
pub(crate) fn tun_set_queue(fd: BorrowedFd<'_>, request: &TunRequest) -> io::Result<()> {
    // SAFETY: TUNSETQUEUE reads one ifreq.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETQUEUE, std::ptr::from_ref(request)) })
}

/// Bytes that a frame may have more than the guest's buffers: the largest frame there is.
pub(crate) const OVERFLOW: usize = 0x1_0040;

/// Guest memory, in pieces, that the next frame is received into, and room of our own behind it: a
/// frame that reaches there did not fit, which could not be told otherwise.
#[derive(Debug)]
pub struct ReceiveList {
    /// The guest's pieces, and the overflow as the last.
    vectors: Vec<libc::iovec>,
    /// Not touched (so not resident) before a frame is too long.
    overflow: Box<[u8]>,
    /// Where in the frame the overflow begins, and how many bytes of it are the frame's.
    held_at: usize,
    held: usize,
}

// SAFETY: the pointers are to guest memory, which belongs to the process, and to a buffer that the
// list owns.
unsafe impl Send for ReceiveList {}

impl ReceiveList {
    pub(crate) fn new() -> Self {
        let mut list = Self {
            vectors: Vec::new(),
            overflow: vec![0; OVERFLOW].into_boxed_slice(),
            held_at: 0,
            held: 0,
        };
        list.append(&[]);
        list
    }

    /// Appends pieces of guest memory, which has to stay mapped until they are consumed.
    pub(crate) fn append(&mut self, pieces: &[IoVec]) {
        self.vectors.pop();
        self.vectors.extend_from_slice(IoVec::as_raw(pieces));
        self.vectors.push(libc::iovec {
            iov_base: self.overflow.as_mut_ptr().cast(),
            iov_len: self.overflow.len(),
        });
    }

    /// Notes that a frame of `len` bytes was received while the pieces had `capacity` bytes.
    pub(crate) fn hold(&mut self, capacity: usize, len: usize) {
        self.held_at = capacity;
        self.held = len.saturating_sub(capacity).min(OVERFLOW);
    }

    /// Copies what is held of a frame to the pieces that were appended since.
    pub(crate) fn place(&mut self) {
        let overflow = std::mem::take(&mut self.overflow);
        self.write(self.held_at, overflow.get(..self.held).unwrap_or_default());
        self.overflow = overflow;
        self.held = 0;
    }

    /// Drops the first `count` pieces.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.pieces());
        self.vectors.drain(..count);
    }

    /// Pieces of guest memory.
    pub(crate) fn pieces(&self) -> usize {
        self.vectors.len().saturating_sub(1)
    }

    /// Scatters what one read of `fd` yields.
    ///
    /// # Errors
    /// What the host answered.
    pub fn read(&mut self, fd: RawFd) -> io::Result<usize> {
        let count = c_int::try_from(self.vectors.len()).unwrap_or(c_int::MAX);
        // SAFETY: all vectors but the last are guest memory, which is mapped while its device
        // works and which nobody but the guest and devices look at, by volatile accesses; the last
        // is our own buffer.
        let read = unsafe { libc::readv(fd, self.vectors.as_ptr(), count) };
        usize::try_from(read).map_err(|_| io::Error::last_os_error())
    }

    /// Copies `bytes` to offset `at` of the frame.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        let mut skip = at;
        let mut rest = bytes;
        for piece in &self.vectors {
            if skip >= piece.iov_len {
                skip -= piece.iov_len;
                continue;
            }
            let count = rest.len().min(piece.iov_len - skip);
            let to = piece.iov_base.cast::<u8>().wrapping_add(skip);
            // SAFETY: `to` and `count` bytes from it are within a piece of guest memory, which is
            // mapped, or of the overflow, which is not borrowed here; `rest` is as long. The guest
            // may write there at the same time, so nothing is assumed of the bytes afterwards.
            unsafe { std::ptr::copy_nonoverlapping(rest.as_ptr(), to, count) };
            rest = &rest[count..];
            skip = 0;
            if rest.is_empty() {
                return;
            }
        }
    }
}

/// Writes a frame that lies in guest memory by one call.
pub(crate) fn write_vectors(fd: RawFd, frame: &[IoVec]) -> io::Result<usize> {
    let vectors = IoVec::as_raw(frame);
    if let [piece] = vectors {
        // Most small frames are in one piece, which spares the kernel to fetch the vectors.
        // SAFETY: as below.
        let written = unsafe { libc::write(fd, piece.iov_base, piece.iov_len) };
        return usize::try_from(written).map_err(|_| io::Error::last_os_error());
    }
    let count = c_int::try_from(vectors.len()).unwrap_or(c_int::MAX);
    // SAFETY: the vectors are guest memory, which is mapped while its device works; the kernel
    // only reads it.
    let written = unsafe { libc::writev(fd, vectors.as_ptr(), count) };
    usize::try_from(written).map_err(|_| io::Error::last_os_error())
}

/// Writes frames that lie in guest memory behind a prefix, by one call each.
#[derive(Debug, Default)]
pub(crate) struct FrameWriter {
    /// Kept only for its storage: empty between calls.
    vectors: Vec<libc::iovec>,
}

// SAFETY: between calls there is no pointer in it.
unsafe impl Send for FrameWriter {}

impl FrameWriter {
    /// Writes `prefix` and `frame` without its first `skip` bytes, as far as `fd` takes them.
    pub(crate) fn write(
        &mut self,
        fd: RawFd,
        prefix: &[u8],
        frame: &[IoVec],
        mut skip: usize,
    ) -> io::Result<usize> {
        self.vectors.push(libc::iovec {
            iov_base: prefix.as_ptr().cast_mut().cast(),
            iov_len: prefix.len(),
        });
        for piece in IoVec::as_raw(frame) {
            let skipped = skip.min(piece.iov_len);
            skip -= skipped;
            self.vectors.push(libc::iovec {
                iov_base: piece.iov_base.wrapping_byte_add(skipped),
                iov_len: piece.iov_len - skipped,
            });
        }
        // What is beyond the limit comes as the rest of a frame that was written in part.
        let count = self.vectors.len().min(IOV_MAX);
        let message = libc::msghdr {
            msg_name: std::ptr::null_mut(),
            msg_namelen: 0,
            msg_iov: self.vectors.as_mut_ptr(),
            msg_iovlen: count,
            msg_control: std::ptr::null_mut(),
            msg_controllen: 0,
            msg_flags: 0,
        };
        // SAFETY: the vectors are `prefix`, which is alive, and guest memory, which is mapped while
        // its device works; the kernel only reads them.
        let written = unsafe { libc::sendmsg(fd, &raw const message, libc::MSG_NOSIGNAL) };
        self.vectors.clear();
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }
}

/// `UIO_MAXIOV`: what one call takes.
const IOV_MAX: usize = 1024;

/// Appends the bytes of a frame from `skip` on.
pub(crate) fn gather(frame: &[IoVec], mut skip: usize, to: &mut Vec<u8>) {
    for piece in frame {
        let skipped = skip.min(piece.len());
        skip -= skipped;
        let count = piece.len() - skipped;
        to.reserve(count);
        let at = piece.base().wrapping_add(skipped);
        let end = to.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `at` and `count` bytes from it are guest memory, which is mapped; `end` has room
        // for as many. The guest may write meanwhile, and every value of the bytes is right.
        unsafe { std::ptr::copy_nonoverlapping(at, end, count) };
        // SAFETY: so many bytes more are now initialized, within the capacity.
        unsafe { to.set_len(to.len() + count) };
    }
}

/// Lets the program that `command` starts inherit `fd`, under its number.
pub(crate) fn inherit(command: &mut Command, fd: BorrowedFd<'_>) {
    let fd = fd.as_raw_fd();
    // SAFETY: F_SETFD takes its argument by value.
    let keep = move || check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) });
    // SAFETY: between fork and exec only fcntl is called, which is async-signal-safe.
    unsafe { command.pre_exec(keep) };
}

pub(crate) fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: F_GETFL has no argument.
    let flags = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) };
    check(flags)?;
    // SAFETY: F_SETFL takes its argument by value.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) })
}

/// A socket that talks to the kernel's routing tables: nobody else's messages reach it.
#[cfg(feature = "bridge")]
pub(crate) fn route_socket() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket takes its arguments by value.
    let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
    check(fd)?;
    // SAFETY: the descriptor is new, and owned by nobody.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all bytes zero are a valid sockaddr_nl: no groups.
    let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    kernel.nl_family = libc::AF_NETLINK as libc::sa_family_t;
    let len = size_of::<libc::sockaddr_nl>() as libc::socklen_t;
    // SAFETY: connect reads `len` bytes, which `kernel` has.
    check(unsafe { libc::connect(fd, (&raw const kernel).cast(), len) })?;
    Ok(socket)
}

/// Waits for a datagram and returns its length, of which `buffer` holds as much as it can.
#[cfg(feature = "bridge")]
pub(crate) fn receive_datagram(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    let (fd, to, len) = (socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len());
    // SAFETY: `to` has room for `len` bytes.
    let received = unsafe { libc::recv(fd, to, len, libc::MSG_TRUNC) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Moves the calling thread into a new network namespace.
#[cfg(feature = "test-utils")]
pub(crate) fn enter_new_netns() -> io::Result<()> {
    // SAFETY: unshare takes its argument by value; a network namespace is no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread into the network namespace of `fd`.
#[cfg(feature = "test-utils")]
pub(crate) fn enter_netns(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: setns takes its arguments by value.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) })
}
