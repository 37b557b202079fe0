use std::fs::{File, FileType, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use super::flushes::Flushes;
use super::{Storage, write_zero_bytes};
use crate::sys::{self, Hole};

/// How to open a [`FileStorage`].
#[derive(Debug, Clone, Copy, Default)]
pub struct FileOptions {
    /// Open for writing too.
    pub write: bool,
    /// Create the file, or empty the one that is there.
    pub create: bool,
    /// Pass by the host's page cache (O_DIRECT). Requests that are not aligned go through an
    /// aligned buffer.
    pub direct: bool,
}

/// A storage in a file or device, reached by positional system calls.
#[derive(Debug)]
pub struct FileStorage {
    file: File,
    /// Of a size that nobody here can change.
    device: bool,
    /// Alignment that O_DIRECT wants; 1 without it.
    alignment: usize,
    /// Whether a flush does anything.
    durable: bool,
    /// Held for writing while a bounced write reads and rewrites the blocks around it.
    rewriting: RwLock<()>,
    flushes: Flushes,
}

/// Covers every disk in use, for kernels that do not tell.
const DIRECT_ALIGNMENT: usize = 4096;

/// Block devices, and character devices such as /dev/null, which have no size.
fn is_device(kind: FileType) -> bool {
    kind.is_block_device() || kind.is_char_device()
}

impl FileStorage {
    /// Opens the file at `path`.
    pub fn open(path: &Path, options: FileOptions) -> io::Result<Self> {
        let mut open = OpenOptions::new();
        open.read(true).write(options.write || options.create);
        open.create(options.create).truncate(options.create);
        if options.direct {
            open.custom_flags(libc::O_DIRECT);
        }
        let file = open.open(path)?;
        let kind = file.metadata()?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "neither a regular file nor a block device",
            ));
        }
        let alignment = if options.direct {
            sys::direct_alignment(&file).unwrap_or(DIRECT_ALIGNMENT)
        } else {
            1
        };
        Ok(Self {
            file,
            device: is_device(kind),
            alignment,
            durable: true,
            rewriting: RwLock::new(()),
            flushes: Flushes::default(),
        })
    }

    /// Wraps a file or device that is open already, without O_DIRECT; also a character device, such
    /// as /dev/null.
    pub fn from_file(file: File) -> io::Result<Self> {
        let device = is_device(file.metadata()?.file_type());
        Ok(Self {
            file,
            device,
            alignment: 1,
            durable: true,
            rewriting: RwLock::new(()),
            flushes: Flushes::default(),
        })
    }

    /// Makes [`Storage::flush`] do nothing, for a file that nobody misses after a power failure:
    /// a scratch disk, or the target of a copy that would be made again.
    #[must_use]
    pub fn without_flush(self) -> Self {
        Self {
            durable: false,
            ..self
        }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    fn read_plain(&self, bufs: &mut [IoSliceMut<'_>], mut offset: u64) -> io::Result<()> {
        if let [buf] = bufs {
            return self.read_one(buf, offset);
        }
        let mut bufs = bufs;
        while !bufs.is_empty() {
            let count = sys::read_vectored_at(&self.file, bufs, offset)?;
            if count == 0 {
                bufs.iter_mut().for_each(|buf| buf.fill(0));
                return Ok(());
            }
            IoSliceMut::advance_slices(&mut bufs, count);
            offset += count as u64;
        }
        Ok(())
    }

    fn read_one(&self, mut buf: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buf.is_empty() {
            match self.file.read_at(buf, offset) {
                Ok(0) => {
                    buf.fill(0);
                    return Ok(());
                }
                Ok(count) => {
                    buf = &mut buf[count..];
                    offset += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn write_plain(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if let [buf] = bufs {
            return self.file.write_all_at(buf, offset);
        }
        let count = sys::write_vectored_at(&self.file, bufs, offset)?;
        let total: usize = bufs.iter().map(|buf| buf.len()).sum();
        if count == total {
            return Ok(());
        }
        // More buffers than one system call takes, or a short write: the rest goes one by one.
        let mut skip = count;
        let mut at = offset;
        for buf in bufs {
            let rest = buf.get(skip..).unwrap_or_default();
            self.file
                .write_all_at(rest, at + skip.min(buf.len()) as u64)?;
            skip = skip.saturating_sub(buf.len());
            at += buf.len() as u64;
        }
        Ok(())
    }

    /// Zeroes from `offset` to `end` without writing zeroes.
    fn zero_quickly(&self, offset: u64, end: u64, unmap: bool) -> io::Result<()> {
        // A bounced write would write back what it has read here.
        let _shared = self
            .rewriting
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let len = end - offset;
        if unmap {
            self.reach(end)?;
            sys::punch_hole(&self.file, offset, len)
        } else {
            sys::zero_range(&self.file, offset, len)
        }
    }

    /// Flushes the file by `flush`. With O_DIRECT there are no pages for the kernel to lose.
    pub(super) fn flush_by(&self, flush: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let flush = || match flush() {
            // Such as a character device: there is nothing to be made durable.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
            done => done,
        };
        match (self.durable, self.alignment) {
            (false, _) => Ok(()),
            (true, 1) => self.flushes.run(flush),
            (true, _) => flush(),
        }
    }

    /// Makes the file reach to `end`, if it does not. A length that is set could cut off what is
    /// written behind it meanwhile.
    fn reach(&self, end: u64) -> io::Result<()> {
        if self.len()? < end {
            sys::allocate(&self.file, end - 1, 1)?;
        }
        Ok(())
    }
}

impl Storage for FileStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        if self.alignment == 1 {
            return self.read_plain(bufs, offset);
        }
        super::direct::read(self.alignment, bufs, offset, |bufs, at| {
            self.read_plain(bufs, at)
        })
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        if self.alignment == 1 {
            return self.write_plain(bufs, offset);
        }
        if super::direct::can_write(self.alignment, bufs, offset) {
            let _shared = self
                .rewriting
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            return self.write_plain(bufs, offset);
        }
        let _alone = self
            .rewriting
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        super::direct::write(
            self.alignment,
            bufs,
            offset,
            |bufs, at| self.read_plain(bufs, at),
            |bufs, at| self.write_plain(bufs, at),
        )
    }

    fn flush(&self) -> io::Result<()> {
        self.flush_by(|| self.file.sync_data())
    }

    fn len(&self) -> io::Result<u64> {
        if self.device {
            return sys::seek_end(&self.file);
        }
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if !self.device {
            return self.file.set_len(len);
        }
        if len > self.len()? {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        match sys::punch_hole(&self.file, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            other => other,
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
        match self.zero_quickly(offset, end, unmap && !self.device) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                write_zero_bytes(self, offset, len)
            }
            other => other,
        }
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        match sys::allocate(&self.file, offset, len) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                let end = offset.checked_add(len).ok_or(io::ErrorKind::InvalidInput)?;
                if self.len()? < end {
                    self.set_len(end)
                } else {
                    Ok(())
                }
            }
            other => other,
        }
    }

    fn grows_with_zeroes(&self) -> bool {
        !self.device
    }

    fn alignment(&self) -> usize {
        self.alignment
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let len = self.len()?;
        if offset >= len {
            return Ok(None);
        }
        match sys::seek_data(&self.file, offset)? {
            Hole::Unknown => Ok(Some((offset, len))),
            Hole::ToTheEnd => Ok(None),
            Hole::Data(start, end) => Ok(Some((start, end))),
        }
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks().saturating_mul(512))
    }
}
