//! The bzImage header (Linux `Documentation/arch/x86/boot.rst`, "the boot protocol").

use std::ops::Range;

use crate::bytes::{array, u16_at, u32_at, u64_at};
use crate::error::{Error, Result};
use crate::kernel::Limits;
use crate::source::Source;

/// Offset of the setup header, in the file and in the zero page alike.
pub(crate) const SETUP_HEADER: usize = 0x1f1;
/// Offset of the 64-bit entry from the load address (protocol 2.12, "64-bit boot protocol").
pub(crate) const ENTRY_64: u64 = 0x200;
pub(crate) const BOOT_FLAG: u16 = 0xaa55;
pub(crate) const HEADER_MAGIC: &[u8; 4] = b"HdrS";

const SECTOR: u64 = 512;
/// The first protocol with XLF_KERNEL_64; all fields that are read here are older.
const VERSION_2_12: u16 = 0x20c;
const XLF_KERNEL_64: u16 = 1;
/// The header's end is a byte's worth beyond offset 0x202.
const MAX_HEADER_END: usize = 0x202 + 0xff;
const MAX_VERSION_STRING: usize = 256;
/// More than any kernel needs to run in.
const MAX_INIT_SIZE: u64 = 1 << 30;

/// A 64-bit bzImage, checked against its file.
#[derive(Debug)]
pub(crate) struct BzImage {
    /// The setup header as it is in the file, from [`SETUP_HEADER`] on.
    pub(crate) setup_header: Vec<u8>,
    /// The kernel's own version string, if it is printable.
    pub(crate) version: Option<String>,
    /// Where in the file the protected-mode kernel is.
    pub(crate) kernel: Range<u64>,
    /// Where in the file the compressed kernel is.
    pub(crate) payload: Range<u64>,
    /// Where it is to be loaded, guest-physical.
    pub(crate) load_address: u64,
    /// How many bytes from there it needs until it has set up memory management.
    pub(crate) init_size: u64,
    /// What it takes of command line and initrd.
    pub(crate) limits: Limits,
}

impl BzImage {
    /// Whether a file's head carries the header's magic numbers.
    pub(crate) fn recognise(head: &[u8]) -> bool {
        u16_at(head, 0x1fe) == Some(BOOT_FLAG) && array(head, 0x202) == Some(*HEADER_MAGIC)
    }

    /// Reads the header of a file that [`BzImage::recognise`] accepts.
    pub(crate) fn parse(source: &Source) -> Result<Self> {
        let head = source.head(MAX_HEADER_END)?;
        Fields {
            head: &head,
            size: source.size(),
        }
        .check(source)
    }
}

/// The first bytes of the file, which may be too few.
struct Fields<'a> {
    head: &'a [u8],
    size: u64,
}

impl Fields<'_> {
    fn check(&self, source: &Source) -> Result<BzImage> {
        if self.u16(0x206)? < VERSION_2_12 || self.u16(0x236)? & XLF_KERNEL_64 == 0 {
            return Err(Error::ThirtyTwoBit {
                what: "a bzImage without a 64-bit entry",
            });
        }
        // Zero means four, for kernels older than the protocol's first version.
        let setup_sects = match self.u8(SETUP_HEADER)? {
            0 => 4,
            n => u64::from(n),
        };
        let kernel_start = (setup_sects + 1) * SECTOR;
        // In paragraphs of 16 bytes, rounded up.
        let paragraphs = u64::from(self.u32(0x1f4)?);
        let kernel = kernel_start..kernel_start + paragraphs * 16;
        let present = self.size.min(kernel.end);
        if present + 15 < kernel.end || present <= kernel_start + ENTRY_64 {
            let what = "the protected-mode kernel";
            return Err(Error::Truncated {
                what,
                end: kernel.end,
                size: self.size,
            });
        }
        let init_size = u64::from(self.u32(0x260)?);
        if init_size > MAX_INIT_SIZE {
            let what = "init_size";
            return Err(Error::OverLimit {
                what,
                value: init_size,
                max: MAX_INIT_SIZE,
            });
        }
        Ok(BzImage {
            setup_header: self.setup_header()?,
            version: self.version(source, kernel_start)?,
            payload: self.payload(kernel_start, present)?,
            load_address: self.load_address()?,
            init_size: init_size.max(present - kernel_start),
            limits: Limits {
                cmdline: self.u32(0x238)?,
                initrd_end: u64::from(self.u32(0x22c)?) + 1,
            },
            kernel: kernel_start..present,
        })
    }

    fn payload(&self, kernel_start: u64, present: u64) -> Result<Range<u64>> {
        let start = kernel_start + u64::from(self.u32(0x248)?);
        let end = start + u64::from(self.u32(0x24c)?);
        if end > present {
            return Err(Error::Truncated {
                what: "the payload",
                end,
                size: present,
            });
        }
        Ok(start..end)
    }

    fn load_address(&self) -> Result<u64> {
        const ONE_MIB: u64 = 1 << 20;
        let relocatable = self.u8(0x234)? != 0;
        let preferred = self.u64(0x258)?;
        Ok(if relocatable {
            preferred.max(ONE_MIB)
        } else {
            ONE_MIB
        })
    }

    /// The boot protocol's "details of header fields": it ends at 0x202 plus the byte at 0x201.
    fn setup_header(&self) -> Result<Vec<u8>> {
        let end = 0x202 + usize::from(self.u8(0x201)?);
        let truncated = Error::Truncated {
            what: "the setup header",
            end: end as u64,
            size: self.size,
        };
        self.head
            .get(SETUP_HEADER..end)
            .map(<[u8]>::to_vec)
            .ok_or(truncated)
    }

    fn version(&self, source: &Source, kernel_start: u64) -> Result<Option<String>> {
        let offset = u64::from(self.u16(0x20e)?) + SECTOR;
        if offset == SECTOR || offset >= kernel_start {
            return Ok(None);
        }
        let len = (kernel_start - offset).min(MAX_VERSION_STRING as u64);
        let bytes = source.read_vec("the version string", offset, len, len)?;
        let text = bytes.split(|&b| b == 0).next().unwrap_or_default();
        Ok(str::from_utf8(text)
            .ok()
            .filter(|t| !t.contains(char::is_control))
            .map(str::to_owned))
    }

    fn u8(&self, offset: usize) -> Result<u8> {
        self.head
            .get(offset)
            .copied()
            .ok_or_else(|| self.truncated(offset + 1))
    }

    fn u16(&self, offset: usize) -> Result<u16> {
        u16_at(self.head, offset).ok_or_else(|| self.truncated(offset + 2))
    }

    fn u32(&self, offset: usize) -> Result<u32> {
        u32_at(self.head, offset).ok_or_else(|| self.truncated(offset + 4))
    }

    fn u64(&self, offset: usize) -> Result<u64> {
        u64_at(self.head, offset).ok_or_else(|| self.truncated(offset + 8))
    }

    fn truncated(&self, end: usize) -> Error {
        Error::Truncated {
            what: "the setup header",
            end: end as u64,
            size: self.size,
        }
    }
}
