use std::io;
use std::path::PathBuf;

use vm_memory::GuestAddress;

use crate::{MemorySize, Pages};

/// What can go wrong with guest RAM. Each message names the thing and, where the user can help, the
/// remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that is no memory size.
    #[error("'{text}' is no memory size: {reason}; write for example 512M, 2G or 512MiB")]
    ParseSize {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Guest RAM of no bytes.
    #[error(
        "the guest's memory size is 0; give it at least {}",
        MemorySize::new(crate::PAGE_SIZE)
    )]
    SizeZero,
    /// Guest RAM that is not made of whole pages of its backing.
    #[error(
        "the guest's memory size {} is no multiple of its {} pages; {} would be",
        MemorySize::new(*.size),
        MemorySize::new(*.page),
        MemorySize::new(multiple_near(*.size, *.page))
    )]
    SizeUnaligned {
        /// Bytes asked for.
        size: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// More memory than the host has.
    #[error(
        "the guest's memory size {} is more than this host's memory and swap together ({}); \
         lower it or add swap",
        MemorySize::new(*.size),
        MemorySize::new(*.host)
    )]
    ExceedsHost {
        /// Bytes asked for.
        size: u64,
        /// Bytes of memory and swap.
        host: u64,
    },
    /// The host has too few free huge pages.
    #[error(
        "the guest needs {needed} huge pages of {} and this host has {free} to give; \
         write {} to {}",
        MemorySize::new(.pages.size()), .total, .remedy.display()
    )]
    HugePagesShort {
        /// The kind of huge page.
        pages: Pages,
        /// Huge pages that the guest needs.
        needed: u64,
        /// Huge pages that are neither used nor reserved.
        free: u64,
        /// The number of huge pages that the host should have in all.
        total: u64,
        /// The file that sets the number.
        remedy: PathBuf,
    },
    /// The host's kernel does not offer huge pages of that size.
    #[error(
        "this host offers no huge pages of {}; boot its kernel with hugepagesz={}M, or \
         choose another page size",
        MemorySize::new(.0.size()),
        .0.size() >> 20
    )]
    HugePagesAbsent(Pages),
    /// This crate counts in pages of 4 KiB, and the host's are others.
    #[error("this host's pages have {0} bytes; only hosts with pages of 4096 bytes are supported")]
    HostPageSize(u64),
    /// The gap in the guest's address space is not made of whole pages or is turned around.
    #[error(
        "a RAM layout with low RAM up to {low_end:#x} and high RAM from {high_start:#x} is \
         impossible: both must be multiples of {page:#x} and the first above 0 and not above the \
         second"
    )]
    Layout {
        /// The first address above low RAM.
        low_end: u64,
        /// The first address of high RAM.
        high_start: u64,
        /// Bytes of a page.
        page: u64,
    },
    /// Guest RAM would reach past the end of the address space.
    #[error("{} of guest memory do not fit into the address space", MemorySize::new(*.0))]
    AddressSpace(u64),
    /// The file is too short for the guest RAM that it should hold.
    #[error(
        "the memory file has {len} bytes, and {} of guest memory from offset {offset} need more",
        MemorySize::new(*.size)
    )]
    FileTooShort {
        /// Bytes in the file.
        len: u64,
        /// Where guest RAM begins in the file.
        offset: u64,
        /// Bytes of guest RAM.
        size: u64,
    },
    /// The offset of guest RAM in its file is no multiple of a page.
    #[error("guest memory at offset {0:#x} of a file can not be mapped: it is no multiple of 4096")]
    FileUnaligned(u64),
    /// A fact about the host could not be read.
    #[error("reading {} failed", .path.display())]
    HostFact {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that states facts about the host is not of the form that is known.
    #[error("{} does not say {wanted}", .path.display())]
    HostFactMissing {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
    },
    /// The memory file of shared guest RAM could not be made.
    #[error("making a memory file of {} failed", MemorySize::new(*.size))]
    Memfd {
        /// Bytes of the file.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// The length of a memory file could not be read.
    #[error("reading the length of the guest's memory file failed")]
    FileLength(#[source] io::Error),
    /// The host refused to map guest RAM.
    #[error(
        "mapping {} of guest memory at guest address {:#x} failed; see vm.overcommit_memory and \
         the address space limit (ulimit -v)",
        MemorySize::new(*.size),
        .guest_base.0
    )]
    Map {
        /// The first guest-physical address.
        guest_base: GuestAddress,
        /// Bytes.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// Guest-physical addresses that are not all RAM of one region.
    #[error("{len:#x} bytes at guest address {:#x} are not guest RAM", .addr.0)]
    OutsideRam {
        /// The first guest-physical address.
        addr: GuestAddress,
        /// Bytes.
        len: u64,
    },
    /// The host refused to take guest RAM back.
    #[error("giving {len:#x} bytes at guest address {:#x} back to the host failed", .addr.0)]
    Discard {
        /// The first guest-physical address.
        addr: GuestAddress,
        /// Bytes.
        len: u64,
        /// Why.
        source: io::Error,
    },
    /// Dirty tracking is on already.
    #[error("dirty tracking of guest memory is already on; it has one user at a time")]
    TrackingOn,
    /// Dirty tracking is off.
    #[error("dirty tracking of guest memory is off; start it first")]
    TrackingOff,
    /// The host can not order its threads' writes against the start of dirty tracking.
    #[error("membarrier(2), which dirty tracking needs to start, failed")]
    Barrier(#[source] io::Error),
    /// A dirty log is of another shape than the guest RAM.
    #[error("a dirty log with {got} words for RAM region {slot} does not fit: it has {wanted}")]
    LogShape {
        /// The region's slot.
        slot: usize,
        /// Words in the log.
        got: usize,
        /// Words that describe the region; 0 for a region that does not exist.
        wanted: usize,
    },
}

/// The largest multiple of `page` in `size`, or one `page`.
fn multiple_near(size: u64, page: u64) -> u64 {
    (size - size % page).max(page)
}
