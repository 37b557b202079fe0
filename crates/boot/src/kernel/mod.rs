//! Kernel files: recognised, unpacked and ready to be loaded.

pub(crate) mod bzimage;
pub(crate) mod dense;
pub(crate) mod elf;
mod identify;

use std::ops::Range;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache::{Cache, Form, Identity, Warning};
use crate::compress::Compression;
use crate::error::{Error, Result};
use crate::source::Source;
use bzimage::BzImage;
use elf::Elf;
use identify::Kind;

/// No kernel, compressed or not, is larger.
const MAX_FILE_SIZE: u64 = 512 << 20;

/// What a kernel accepts; a bzImage's header announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest command line in bytes, without the terminator.
    pub cmdline: u32,
    /// First guest-physical address that an initrd must not reach.
    pub initrd_end: u64,
}

impl Default for Limits {
    /// What every x86-64 Linux accepts: COMMAND_LINE_SIZE less its terminator, and the
    /// `initrd_addr_max` of its header.
    fn default() -> Self {
        Self {
            cmdline: 2047,
            initrd_end: 1 << 31,
        }
    }
}

/// How the processor is set up when it enters the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux's 64-bit boot protocol: long mode, identity mapped, the zero page in RSI.
    Linux64,
    /// PVH (Xen's x86/HVM direct boot): 32-bit protected mode, paging off, `hvm_start_info` in
    /// EBX.
    Pvh,
}

impl Protocol {
    /// Its name in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linux64 => "the Linux 64-bit protocol",
            Self::Pvh => "PVH",
        }
    }
}

/// A kernel that can be loaded.
#[derive(Debug)]
pub struct Kernel {
    path: PathBuf,
    source: Source,
    pub(crate) image: Image,
    limits: Limits,
    warning: Option<Warning>,
}

#[derive(Debug)]
pub(crate) enum Image {
    BzImage(BzImage),
    Elf(Elf),
}

impl Kernel {
    /// Opens a kernel to be loaded as it is: a bzImage unpacks itself in the guest.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`], whose source says why the file can not be used.
    pub fn open(path: &Path) -> Result<Self> {
        let source = Source::open(path).map_err(|e| in_file(path, e))?;
        Self::from_source(path, source)
    }

    pub(crate) fn from_source(path: &Path, source: Source) -> Result<Self> {
        Self::parse(path, source).map_err(|e| in_file(path, e))
    }

    /// Opens a kernel in the form that loads and starts fastest: the ELF kernel inside a bzImage,
    /// without its zeroes.
    ///
    /// An ELF kernel is loaded as it is. With a `cache`, what is taken out of a bzImage is made
    /// once for each file and found again by the file's identity. A cache that does not work costs time and is a [`Kernel::warning`], not an error.
    /// A kernel that is made so has no randomised base address: only the bzImage's own
    /// decompressor chooses one.
    ///
    /// # Errors
    ///
    /// [`Error::Kernel`]. Its source is [`Error::UnknownCompression`] for a bzImage that only
    /// [`Kernel::open`] can use.
    pub fn open_unpacked(path: &Path, cache: Option<&Cache>) -> Result<Self> {
        Self::unpacked(path, cache).map_err(|e| in_file(path, e))
    }

    fn unpacked(path: &Path, cache: Option<&Cache>) -> Result<Self> {
        let source = Source::open(path)?;
        let identity = source.metadata().map(Identity::of);
        let place = cache.zip(identity.as_ref());
        if let Some((cache, identity)) = place
            && let Some(dense) = cache.find(Form::Kernel, identity)
        {
            return Self::parse(path, dense);
        }
        let kernel = Self::parse(path, source)?;
        match (&kernel.image, place) {
            (Image::BzImage(_), None) => {
                Self::parse(path, Source::Memory(kernel.dense(kernel.digest()?)?))
            }
            (Image::BzImage(_), Some((cache, identity))) => kernel.made_dense(cache, identity),
            // To make an ELF kernel dense takes as long as a hundred starts would save by it.
            (Image::Elf(_), _) => Ok(kernel),
        }
    }

    fn made_dense(&self, cache: &Cache, identity: &Identity) -> Result<Self> {
        let digest = self.digest()?;
        if let Some(found) = cache.find_content(identity, &digest) {
            return Self::parse(&self.path, found);
        }
        let dense = self.dense(digest)?;
        let warning = cache.publish(Form::Kernel, identity, &digest, &dense).err();
        Ok(Self {
            warning,
            ..Self::parse(&self.path, Source::Memory(dense))?
        })
    }

    fn parse(path: &Path, source: Source) -> Result<Self> {
        let head = source.head(identify::HEAD_SIZE)?;
        let (image, limits) = match identify::identify(&head)? {
            Kind::BzImage => {
                let image = BzImage::parse(&source)?;
                let limits = image.limits;
                (Image::BzImage(image), limits)
            }
            Kind::Elf => {
                let elf = Elf::parse(&source)?;
                let limits = elf.mark.map_or_else(Limits::default, |mark| mark.limits);
                (Image::Elf(elf), limits)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            source,
            image,
            limits,
            warning: None,
        })
    }

    /// The file as it was named.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it accepts of command line and initrd.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Why the cache did not keep it, where it should have.
    pub fn warning(&self) -> Option<&Warning> {
        self.warning.as_ref()
    }

    /// The kernel's version string, which only a bzImage carries in its header.
    pub fn version(&self) -> Option<&str> {
        match &self.image {
            Image::BzImage(image) => image.version.as_deref(),
            Image::Elf(_) => None,
        }
    }

    /// How a bzImage's payload is compressed; `None` for an ELF kernel.
    ///
    /// # Errors
    ///
    /// Those of reading the file.
    pub fn compression(&self) -> Result<Option<Compression>> {
        match &self.image {
            Image::BzImage(image) => {
                let mut magic = [0; 6];
                let len = (image.payload.end - image.payload.start).min(magic.len() as u64);
                let magic = &mut magic[..len as usize];
                self.source
                    .read_at("the payload", image.payload.start, magic)?;
                Ok(Some(Compression::of(magic)))
            }
            Image::Elf(_) => Ok(None),
        }
    }

    /// The guest-physical addresses that it occupies while it starts.
    pub fn occupies(&self) -> Range<u64> {
        match &self.image {
            Image::BzImage(image) => {
                image.load_address..image.load_address.saturating_add(image.init_size)
            }
            Image::Elf(elf) => elf.start()..elf.end(),
        }
    }

    /// How many bytes are copied into guest memory to load it.
    pub fn loaded_bytes(&self) -> u64 {
        match &self.image {
            Image::BzImage(image) => image.kernel.end - image.kernel.start,
            Image::Elf(elf) => elf.segments.iter().map(|s| s.file_len).sum(),
        }
    }

    /// Whether it is an ELF kernel whose zeroes have been taken out.
    pub fn is_dense(&self) -> bool {
        matches!(&self.image, Image::Elf(elf) if elf.mark.is_some())
    }

    /// The dense ELF form of this kernel, as the cache keeps it: a valid ELF file that every ELF
    /// loader takes.
    ///
    /// # Errors
    ///
    /// [`Error::UnknownCompression`], [`Error::Decompress`] and [`Error::PayloadTooLarge`] for a
    /// bzImage; those of an ELF file for what is inside it.
    pub fn to_dense(&self) -> Result<Vec<u8>> {
        self.dense(self.digest()?)
    }

    fn dense(&self, digest: dense::Sha256Digest) -> Result<Vec<u8>> {
        match &self.image {
            Image::Elf(elf) => dense::build(elf, &self.source, self.limits, digest),
            Image::BzImage(image) => {
                let inner = Source::Memory(self.unpack(image)?);
                if !inner.head(elf::MAGIC.len())?.starts_with(elf::MAGIC) {
                    return Err(Error::Malformed {
                        what: "its payload is no ELF file",
                    });
                }
                dense::build(&Elf::parse(&inner)?, &inner, self.limits, digest)
            }
        }
    }

    /// Decompresses a payload. All methods but gzip, whose own format ends so, have the unpacked
    /// size as 32 bits behind them (`arch/x86/boot/compressed/mkpiggy.c` relies on it).
    fn unpack(&self, image: &BzImage) -> Result<Vec<u8>> {
        const TRAILER: usize = 4;
        let len = image.payload.end - image.payload.start;
        let payload =
            self.source
                .read_vec("the payload", image.payload.start, len, MAX_FILE_SIZE)?;
        let Some((stream, trailer)) = payload.split_last_chunk::<TRAILER>() else {
            return Err(Error::Malformed {
                what: "its payload is empty",
            });
        };
        let claimed = u64::from(u32::from_le_bytes(*trailer));
        let method = Compression::of(stream);
        let stream = if method == Compression::Gzip {
            &payload
        } else {
            stream
        };
        let unpacked = method.unpack(stream, claimed.min(image.init_size).min(MAX_FILE_SIZE))?;
        if unpacked.len() as u64 != claimed {
            return Err(Error::Malformed {
                what: "its payload has another size than announced",
            });
        }
        Ok(unpacked)
    }

    fn digest(&self) -> Result<dense::Sha256Digest> {
        const CHUNK: u64 = 1 << 20;
        let size = self.source.size();
        if size > 4 * MAX_FILE_SIZE {
            let max = 4 * MAX_FILE_SIZE;
            return Err(Error::OverLimit {
                what: "file size",
                value: size,
                max,
            });
        }
        let mut hash = Sha256::new();
        for offset in (0..size).step_by(CHUNK as usize) {
            let len = CHUNK.min(size - offset);
            hash.update(self.source.read_vec("its contents", offset, len, CHUNK)?);
        }
        Ok(hash.finalize().into())
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// The protocols that it can be entered by, the faster first.
    pub fn protocols(&self) -> &'static [Protocol] {
        match &self.image {
            Image::BzImage(_) => &[Protocol::Linux64],
            Image::Elf(elf) => match (elf.pvh_entry, elf.linux_entry) {
                (Some(_), Some(_)) => &[Protocol::Linux64, Protocol::Pvh],
                (Some(_), None) => &[Protocol::Pvh],
                (None, _) => &[Protocol::Linux64],
            },
        }
    }
}

fn in_file(path: &Path, source: Error) -> Error {
    Error::Kernel {
        path: path.to_owned(),
        source: Box::new(source),
    }
}
