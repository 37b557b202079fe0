//! Tap interfaces: Ethernet frames of the host's kernel, read and written through descriptors.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::BitOr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use strata_virtio::IoVec;

use crate::sys::{self, ReceiveList, TunRequest};
use crate::{Backend, Endpoint, Error, HEADER_LEN, InterfaceName, Uplink};

// linux/if_tun.h
const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_ATTACH_QUEUE: u16 = 0x0200;
const IFF_DETACH_QUEUE: u16 = 0x0400;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// What the receiving end of a frame leaves to a later one: checksums that are not yet computed,
/// and segments that are not yet cut.
///
/// The bits are those of `TUNSETOFFLOAD` (linux/if_tun.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads(u32);

impl Offloads {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// Frames whose checksum is not computed.
    pub const CSUM: Self = Self(0x01);
    /// Large TCP segments over IPv4. This and the following need [`Offloads::CSUM`].
    pub const TSO4: Self = Self(0x02);
    /// Large TCP segments over IPv6.
    pub const TSO6: Self = Self(0x04);
    /// Large TCP segments with ECN bits.
    pub const TSO_ECN: Self = Self(0x08);
    /// Large UDP segments (not fragments) over IPv4: Linux 6.2.
    pub const USO4: Self = Self(0x20);
    /// Large UDP segments over IPv6: Linux 6.2.
    pub const USO6: Self = Self(0x40);
    /// Large UDP segments.
    pub const USO: Self = Self(0x60);
    /// Everything but USO: what each kernel with TSO knows.
    pub const ALL_BUT_USO: Self = Self(0x0f);
    /// All of them.
    pub const ALL: Self = Self(0x6f);

    /// Whether all of `other` is in here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// All of these but `other`.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Offloads {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An open tap: one descriptor per queue.
///
/// Frames have a virtio-net header of [`HEADER_LEN`] bytes before them, in both directions. The
/// descriptors are non-blocking. A tap that this opened into being disappears with its last
/// descriptor; one that was there before stays.
#[derive(Debug)]
pub struct Tap {
    name: InterfaceName,
    queues: Vec<TapQueue>,
}

impl Tap {
    /// Opens the tap `name` with `queues` queues (at least one), or makes it if there is none and
    /// this process has `CAP_NET_ADMIN`. Without a name, a new tap gets the first free `tapN`.
    ///
    /// # Errors
    /// [`Error::NoTun`] where the host has no tun driver, [`Error::TapDenied`] without the right to
    /// open or make this tap, [`Error::TapBusy`] when another program has it open,
    /// [`Error::TapSingleQueue`] when it was made for one queue only, [`Error::NotATap`] when the
    /// name is that of another kind of interface, and [`Error::Tap`] for everything else.
    pub fn open(name: Option<&InterfaceName>, queues: u16) -> Result<Self, Error> {
        let pattern = name.map_or("tap%d", InterfaceName::as_str);
        let single = queues <= 1;
        let first = match open_queue(pattern, !single) {
            // A tap that was made for several queues can be opened by one.
            Err(source) if single && source.raw_os_error() == Some(libc::EINVAL) => {
                open_queue(pattern, true)
            }
            other => other,
        };
        let (file, name) = first.map_err(|source| open_error(pattern, !single, source))?;
        let name: InterfaceName = name.parse()?;
        let mut files = vec![file];
        for _ in 1..queues {
            let (file, _) = open_queue(name.as_str(), true)
                .map_err(|source| open_error(name.as_str(), true, source))?;
            files.push(file);
        }
        let queues = files.into_iter().map(TapQueue).collect();
        Self { name, queues }.prepared()
    }

    /// Takes over taps that another program opened, one descriptor per queue of the same
    /// interface, each with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    ///
    /// # Errors
    /// [`Error::NotATapFd`] for a descriptor that is none, or of another interface than the first,
    /// or of other flags.
    pub fn from_fds(fds: Vec<OwnedFd>) -> Result<Self, Error> {
        let mut name: Option<InterfaceName> = None;
        let mut queues = Vec::new();
        for fd in fds {
            let refuse = |reason| Error::NotATapFd {
                fd: fd.as_raw_fd(),
                reason,
            };
            let attached = sys::tun_attached(fd.as_fd())
                .map_err(|_| refuse("it is no descriptor of a tap"))?;
            let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
            if attached.flags & needed != needed {
                return Err(refuse("it lacks IFF_TAP, IFF_NO_PI or IFF_VNET_HDR"));
            }
            let its_name = attached.name().parse()?;
            if name.get_or_insert_with(|| InterfaceName::clone(&its_name)) != &its_name {
                return Err(refuse("it is of another tap than the first descriptor"));
            }
            queues.push(TapQueue(File::from(fd)));
        }
        let name = name.ok_or(Error::NotATapFd {
            fd: -1,
            reason: "no descriptor was given",
        })?;
        Self { name, queues }.prepared()
    }

    fn prepared(self) -> Result<Self, Error> {
        for queue in &self.queues {
            sys::set_nonblocking(queue.as_fd())
                .and_then(|()| sys::tun_set_header_size(queue.as_fd(), HEADER_LEN as libc::c_int))
                .and_then(|()| sys::tun_set_offload(queue.as_fd(), 0))
                .map_err(|source| Error::Tap {
                    name: self.name.to_string(),
                    action: "set up",
                    source,
                })?;
        }
        Ok(self)
    }

    /// The interface's name.
    #[must_use]
    pub fn name(&self) -> &InterfaceName {
        &self.name
    }

    /// The queues.
    #[must_use]
    pub fn queues(&self) -> &[TapQueue] {
        &self.queues
    }

    /// The queues, to give each to a thread of its own.
    #[must_use]
    pub fn into_queues(self) -> Vec<TapQueue> {
        self.queues
    }

    /// The offloads that the host's kernel knows. It leaves all of them switched off.
    #[must_use]
    pub fn known_offloads(&self) -> Offloads {
        self.queues
            .first()
            .map_or(Offloads::NONE, TapQueue::known_offloads)
    }
}

impl Tap {
    /// The tap as a card's host end, with a queue pair for each queue.
    #[must_use]
    pub fn into_backend(self) -> Backend {
        let (endpoints, uplink) = self.into_ends();
        Backend {
            endpoints,
            uplink: Arc::new(uplink),
            vhost: Vec::new(),
        }
    }

    pub(crate) fn into_ends(self) -> (Vec<Box<dyn Endpoint>>, TapUplink) {
        let queues: Vec<_> = self.queues.into_iter().map(Arc::new).collect();
        let endpoint = |queue: &Arc<TapQueue>| Box::new(Arc::clone(queue)) as Box<dyn Endpoint>;
        let endpoints = queues.iter().map(endpoint).collect();
        let attached = Mutex::new(vec![true; queues.len()]);
        (endpoints, TapUplink { queues, attached })
    }
}

/// All queues of a tap, for what concerns them together.
pub(crate) struct TapUplink {
    queues: Vec<Arc<TapQueue>>,
    /// Which queues get frames. Only the rare changes take the lock.
    pub(crate) attached: Mutex<Vec<bool>>,
}

impl Uplink for TapUplink {
    fn known_offloads(&self) -> Offloads {
        self.queues
            .first()
            .map_or(Offloads::NONE, |queue| queue.known_offloads())
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        match self.queues.first() {
            Some(queue) => queue.set_offloads(offloads),
            None => Ok(()),
        }
    }

    fn set_pairs(&self, pairs: u16) -> io::Result<()> {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = (0..).map(|index| index < usize::from(pairs));
        for ((queue, attached), wanted) in self.queues.iter().zip(attached.iter_mut()).zip(wanted) {
            if *attached != wanted {
                let flags = if wanted {
                    IFF_ATTACH_QUEUE
                } else {
                    IFF_DETACH_QUEUE
                };
                sys::tun_set_queue(queue.as_fd(), &TunRequest::new("", flags))?;
                *attached = wanted;
            }
        }
        Ok(())
    }
}

impl Endpoint for Arc<TapQueue> {
    fn fd(&self) -> RawFd {
        self.as_raw_fd()
    }

    fn receive(&mut self, list: &mut ReceiveList) -> io::Result<usize> {
        list.read(self.as_raw_fd())
    }

    fn send(&mut self, frame: &[IoVec]) -> io::Result<()> {
        // A tap takes a frame as a whole or not at all.
        sys::write_vectors(self.as_raw_fd(), frame).map(drop)
    }
}

/// One queue of a tap.
#[derive(Debug)]
pub struct TapQueue(File);

impl TapQueue {
    /// Says which frames the reader of this tap takes; they hold for all of its queues.
    ///
    /// # Errors
    /// What the kernel answered: `EINVAL` for an offload that it does not know, or one without
    /// [`Offloads::CSUM`] that needs it.
    pub fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        sys::tun_set_offload(self.as_fd(), offloads.0)
    }
}

impl TapQueue {
    fn known_offloads(&self) -> Offloads {
        let known = [Offloads::ALL, Offloads::ALL_BUT_USO]
            .into_iter()
            .find(|&offloads| self.set_offloads(offloads).is_ok());
        match self.set_offloads(Offloads::NONE) {
            Ok(()) => known.unwrap_or(Offloads::NONE),
            Err(_) => Offloads::NONE,
        }
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for TapQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn open_queue(name: &str, multi_queue: bool) -> io::Result<(File, String)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let queues = if multi_queue { IFF_MULTI_QUEUE } else { 0 };
    let mut request = TunRequest::new(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | queues);
    sys::tun_attach(&file, &mut request)?;
    Ok((file, request.name()))
}

fn open_error(name: &str, multi_queue: bool, source: io::Error) -> Error {
    // The name that the kernel would have chosen.
    let name = name.replace("%d", "0");
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::NoTun { source },
        Some(libc::EPERM | libc::EACCES) => Error::TapDenied { name },
        Some(libc::EBUSY) => Error::TapBusy { name },
        Some(libc::EINVAL) if multi_queue && is_single_queue_tap(&name) => {
            Error::TapSingleQueue { name }
        }
        Some(libc::EINVAL) => Error::NotATap { name },
        _ => Error::Tap {
            name,
            action: "open",
            source,
        },
    }
}

/// Whether `name` can be opened as a tap of one queue: tells why several were refused.
fn is_single_queue_tap(name: &str) -> bool {
    open_queue(name, false).is_ok()
}
