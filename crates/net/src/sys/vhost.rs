//! The ioctls of /dev/vhost-net (linux/vhost.h, Linux's Documentation/virtual/virtio), which libc
//! has no names for.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use libc::{c_int, c_ulong, c_void};
use strata_memory::GuestMemory;
use strata_virtio::Queue;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use super::check;

const GET_FEATURES: c_ulong = 0x8008_af00;
const SET_FEATURES: c_ulong = 0x4008_af00;
const SET_OWNER: c_ulong = 0xaf01;
const RESET_OWNER: c_ulong = 0xaf02;
const SET_MEM_TABLE: c_ulong = 0x4008_af03;
const SET_VRING_NUM: c_ulong = 0x4008_af10;
const SET_VRING_ADDR: c_ulong = 0x4028_af11;
const SET_VRING_BASE: c_ulong = 0x4008_af12;
const GET_VRING_BASE: c_ulong = 0xc008_af12;
const SET_VRING_KICK: c_ulong = 0x4008_af20;
const SET_VRING_CALL: c_ulong = 0x4008_af21;
const SET_VRING_ERR: c_ulong = 0x4008_af22;
const NET_SET_BACKEND: c_ulong = 0x4008_af30;

/// `struct vhost_vring_state` and `struct vhost_vring_file`: a ring of the device, and a number or a
/// descriptor.
#[repr(C)]
struct VringValue {
    index: u32,
    value: i32,
}

/// `struct vhost_vring_addr`: addresses in this process.
#[repr(C)]
struct VringAddresses {
    index: u32,
    flags: u32,
    descriptors: u64,
    used: u64,
    available: u64,
    log: u64,
}

/// `struct vhost_memory_region`.
#[repr(C)]
struct MemoryRegion {
    guest_address: u64,
    len: u64,
    user_address: u64,
    flags: u64,
}

/// What the kernel takes at most, as it is configured by default (vhost's max_mem_regions).
const MAX_REGIONS: usize = 64;

/// `struct vhost_memory`.
#[repr(C)]
struct MemoryTable {
    count: u32,
    padding: u32,
    regions: [MemoryRegion; MAX_REGIONS],
}

/// Which eventfd of a ring.
#[derive(Clone, Copy)]
pub(crate) enum Event {
    /// The driver's notifications.
    Kick,
    /// The driver's interrupt.
    Call,
    /// Signalled when the kernel can not make sense of the ring.
    Error,
}

/// An open /dev/vhost-net.
#[derive(Debug)]
pub(crate) struct Device {
    file: File,
    /// What the kernel was told about: mapped at least as long as it may look there.
    memory: Option<GuestMemory>,
}

impl Device {
    pub(crate) fn open() -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/vhost-net")?;
        Ok(Self { file, memory: None })
    }

    /// # Safety
    /// `argument` is what `request` takes: a pointer to memory that is large enough, or a number.
    unsafe fn ioctl(&self, request: c_ulong, argument: *mut c_void) -> io::Result<()> {
        // SAFETY: the caller's.
        check(unsafe { libc::ioctl(self.file.as_raw_fd(), request, argument) })
    }

    pub(crate) fn features(&self) -> io::Result<u64> {
        let mut features = 0_u64;
        // SAFETY: it writes a u64.
        unsafe { self.ioctl(GET_FEATURES, (&raw mut features).cast()) }?;
        Ok(features)
    }

    pub(crate) fn set_features(&self, mut features: u64) -> io::Result<()> {
        // SAFETY: it reads a u64.
        unsafe { self.ioctl(SET_FEATURES, (&raw mut features).cast()) }
    }

    /// From now on the kernel has a thread that sees this process's memory.
    pub(crate) fn set_owner(&self) -> io::Result<()> {
        // SAFETY: it takes nothing.
        unsafe { self.ioctl(SET_OWNER, std::ptr::null_mut()) }
    }

    /// Everything is as after opening. The kernel looks at no memory any more.
    pub(crate) fn reset_owner(&mut self) -> io::Result<()> {
        // SAFETY: it takes nothing.
        unsafe { self.ioctl(RESET_OWNER, std::ptr::null_mut()) }?;
        self.memory = None;
        Ok(())
    }

    /// Tells where guest memory is in this process.
    pub(crate) fn set_memory(&mut self, memory: &GuestMemory) -> io::Result<()> {
        let region = |(guest_address, len, user_address)| MemoryRegion {
            guest_address,
            len,
            user_address,
            flags: 0,
        };
        let mut table = Box::new(MemoryTable {
            count: 0,
            padding: 0,
            regions: std::array::from_fn(|_| region((0, 0, 0))),
        });
        for known in memory.iter() {
            let to = table.regions.get_mut(table.count as usize);
            let to = to.ok_or(io::ErrorKind::OutOfMemory)?;
            let at = known.host_addr() as u64;
            *to = region((known.start_addr().0, known.size(), at));
            table.count += 1;
        }
        // Before the kernel knows of it: whatever happens, it is mapped as long as this is.
        self.memory = Some(memory.clone());
        // SAFETY: it reads the header and so many regions. The kernel writes where the driver's
        // buffers are in them, which are mapped as long as `self.memory` is; nobody but the guest
        // and devices look there, by volatile accesses.
        unsafe { self.ioctl(SET_MEM_TABLE, (&raw mut *table).cast()) }
    }

    /// Tells the size and the place of a ring. It has to lie in one region.
    pub(crate) fn set_ring(&self, index: u32, queue: &Queue) -> io::Result<()> {
        let state = queue.state();
        let size = usize::from(state.size);
        let place = |address, len| {
            let slice = queue.memory().get_slice(GuestAddress(address), len);
            let slice = slice.map_err(|_| io::Error::from(io::ErrorKind::Unsupported))?;
            Ok::<_, io::Error>(slice.ptr_guard_mut().as_ptr() as u64)
        };
        // Bytes: descriptors of 16; flags, index, 2 for each entry and an event; the same with 8.
        let mut addresses = VringAddresses {
            index,
            flags: 0,
            descriptors: place(state.desc_table, size * 16)?,
            used: place(state.used_ring, size * 8 + 6)?,
            available: place(state.avail_ring, size * 2 + 6)?,
            log: 0,
        };
        self.set_value(SET_VRING_NUM, index, state.size.into())?;
        // SAFETY: it reads the struct. The kernel reads and writes the rings, which are in the
        // queue's memory; `set_memory` keeps that mapped.
        unsafe { self.ioctl(SET_VRING_ADDR, (&raw mut addresses).cast()) }
    }

    /// Tells which chain is the next.
    pub(crate) fn set_base(&self, index: u32, next_avail: u16) -> io::Result<()> {
        self.set_value(SET_VRING_BASE, index, next_avail.into())
    }

    /// Which chain the kernel would have taken next.
    pub(crate) fn base(&self, index: u32) -> io::Result<u16> {
        let mut state = VringValue { index, value: 0 };
        // SAFETY: it reads and writes the struct.
        unsafe { self.ioctl(GET_VRING_BASE, (&raw mut state).cast()) }?;
        // 16 bits of a split ring.
        Ok(state.value as u16)
    }

    pub(crate) fn set_event(&self, index: u32, event: Event, fd: RawFd) -> io::Result<()> {
        let request = match event {
            Event::Kick => SET_VRING_KICK,
            Event::Call => SET_VRING_CALL,
            Event::Error => SET_VRING_ERR,
        };
        self.set_value(request, index, fd)
    }

    /// Begins to serve a ring with a queue of a tap; or ends, and waits for what is in flight.
    pub(crate) fn set_tap(&self, index: u32, tap: Option<RawFd>) -> io::Result<()> {
        self.set_value(NET_SET_BACKEND, index, tap.unwrap_or(-1))
    }

    fn set_value(&self, request: c_ulong, index: u32, value: c_int) -> io::Result<()> {
        let mut value = VringValue { index, value };
        // SAFETY: all requests that come here read such a struct.
        unsafe { self.ioctl(request, (&raw mut value).cast()) }
    }
}
