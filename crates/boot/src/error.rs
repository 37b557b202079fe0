//! Everything that can go wrong, in one enum.

use std::io;
use std::path::PathBuf;

use vm_memory::GuestMemoryError;

/// What was attempted, on what, and what to do about it.
///
/// [`Error::Kernel`] and [`Error::Initrd`] name the file; their `source()` says what is the matter
/// with it. Print the whole chain to a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A kernel file can not be used; the source says why.
    #[error("cannot boot the kernel {}", path.display())]
    Kernel {
        /// The file as it was named.
        path: PathBuf,
        /// What is the matter with it.
        source: Box<Error>,
    },
    /// An initrd file can not be used; the source says why.
    #[error("cannot use the initrd {}", path.display())]
    Initrd {
        /// The file as it was named.
        path: PathBuf,
        /// What is the matter with it.
        source: Box<Error>,
    },

    /// No such file.
    #[error("there is no such file; check the path")]
    Missing,
    /// A directory was named.
    #[error("it is a directory; name the file inside it")]
    Directory,
    /// A pipe, a socket or a device was named.
    #[error("it is not a regular file; copy its contents to a file first")]
    NotRegular,
    /// The file has no content.
    #[error("the file is empty; copy or build it again")]
    Empty,
    /// The system refused an operation on the file.
    #[error("cannot {what}")]
    Io {
        /// The operation, as a verb and its object.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },

    /// The file ends before something that its own header places in it.
    #[error(
        "the file is truncated: {what} ends at byte {end}, but the file has {size}; copy or build it again"
    )]
    Truncated {
        /// The part that is cut off.
        what: &'static str,
        /// Where that part should end, in bytes from the start of the file.
        end: u64,
        /// The size of the file in bytes.
        size: u64,
    },
    /// The kernel is for another processor.
    #[error("it is built for {arch}; this machine runs x86-64 guests, so use an x86-64 kernel")]
    WrongArch {
        /// The other processor's name.
        arch: &'static str,
    },
    /// The kernel has no 64-bit entry point.
    #[error("it is {what}; use a kernel built with CONFIG_64BIT=y")]
    ThirtyTwoBit {
        /// What kind of 32-bit kernel it is.
        what: &'static str,
    },
    /// The file is something else altogether.
    #[error("it is {what}, not a kernel; {remedy}")]
    NotAKernel {
        /// What the file looks like.
        what: &'static str,
        /// What can be done with such a file.
        remedy: &'static str,
    },
    /// An x86-64 ELF file that says nowhere how to enter it as a kernel.
    #[error(
        "it is an x86-64 ELF file without a PVH note, and not a Linux vmlinux; use a bzImage, a vmlinux, or a kernel built with CONFIG_PVH=y"
    )]
    NoEntry,
    /// The file contradicts itself or its format.
    #[error("it is damaged: {what}; copy or build it again")]
    Malformed {
        /// The contradiction.
        what: &'static str,
    },
    /// A value of a header exceeds what is accepted of any file.
    #[error("its {what} is {value}, more than the accepted {max}")]
    OverLimit {
        /// The value's name.
        what: &'static str,
        /// The value.
        value: u64,
        /// The greatest accepted value.
        max: u64,
    },

    /// A bzImage's payload is compressed in a way that this build can not undo.
    #[error(
        "its payload is compressed by {method}, which this build cannot unpack; boot it as the bzImage it is"
    )]
    UnknownCompression {
        /// The method's name.
        method: &'static str,
    },
    /// A bzImage's payload can not be decompressed.
    #[error("its {method} payload is damaged: {reason}; copy or build it again")]
    Decompress {
        /// The method's name.
        method: &'static str,
        /// The decompressor's words.
        reason: String,
    },
    /// A bzImage's payload grows beyond what its header announces.
    #[error(
        "its payload unpacks to more than the {limit} bytes that its header announces; copy or build it again"
    )]
    PayloadTooLarge {
        /// The limit in bytes.
        limit: u64,
    },

    /// The kernel does not fit into guest memory.
    #[error("it needs guest memory from {start:#x} to {end:#x}, but {have:#x} is the end of what is there; give the guest at least {} MiB", end.div_ceil(1 << 20))]
    KernelDoesNotFit {
        /// First guest-physical address that it needs.
        start: u64,
        /// First guest-physical address after what it needs.
        end: u64,
        /// End of the guest memory that holds `start`, or `start` when none does.
        have: u64,
    },
    /// The initrd does not fit beside the kernel.
    #[error(
        "its {size} bytes do not fit: {room} bytes are free beside the kernel; give the guest more memory or use a smaller initrd"
    )]
    InitrdDoesNotFit {
        /// Size of the initrd in bytes.
        size: u64,
        /// The largest initrd that would fit, in bytes.
        room: u64,
    },
    /// The command line is longer than the kernel reads.
    #[error(
        "the kernel command line has {len} bytes, but this kernel reads at most {max}; shorten it"
    )]
    CommandLineTooLong {
        /// Its length in bytes, without a terminator.
        len: usize,
        /// The greatest length that the kernel takes.
        max: usize,
    },
    /// The command line has a zero byte in it, where the kernel would stop reading.
    #[error("the kernel command line has a zero byte at {at}; remove it")]
    CommandLineZero {
        /// Index of the byte.
        at: usize,
    },
    /// Guest memory does not begin with a megabyte of RAM at address zero.
    #[error(
        "guest memory must begin at address 0 and reach beyond {need:#x}; give the guest more memory"
    )]
    LowMemory {
        /// The address that must be backed by RAM.
        need: u64,
    },
    /// The memory map has more entries than the boot protocol carries.
    #[error("the memory map has {count} entries, but the boot protocol carries at most {max}")]
    MemoryMapTooLong {
        /// Its number of entries.
        count: usize,
        /// The protocol's limit.
        max: usize,
    },
    /// A kernel was asked to start by a protocol that it does not offer.
    #[error("this kernel cannot be entered by {protocol}")]
    Protocol {
        /// The protocol's name.
        protocol: &'static str,
    },
    /// The ACPI tables outgrow the area that is set aside for them.
    #[error(
        "the ACPI tables have {size} bytes, but {max} are set aside for them; use fewer processors or devices"
    )]
    AcpiTooLarge {
        /// Their size in bytes.
        size: usize,
        /// The room for them in bytes.
        max: usize,
    },
    /// A platform description that ACPI can not express.
    #[error("cannot describe the platform to the guest: {what}")]
    Platform {
        /// What is the matter.
        what: &'static str,
    },
    /// Guest memory refused a write.
    #[error("cannot write {what} at guest address {addr:#x}")]
    GuestMemory {
        /// What was to be written.
        what: &'static str,
        /// Where, guest-physical.
        addr: u64,
        /// Guest memory's answer.
        source: GuestMemoryError,
    },
}

/// The result of this crate's functions.
pub type Result<T, E = Error> = std::result::Result<T, E>;
