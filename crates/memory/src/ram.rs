use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::bitmap::Bitmap;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestRegionCollection};

use crate::config::{Span, split};
use crate::dirty::{RegionLog, words_for};
use crate::sys::{self, Advice, Mapping, Source};
use crate::{
    Backing, DirtyBitmap, DirtyLog, Error, MemorySize, PAGE_SIZE, Pages, RamConfig, RamLayout,
    RamState, Region, host,
};

/// Guest RAM as rust-vmm crates take it. A clone shares the same bytes and keeps them alive.
pub type GuestMemory = GuestRegionCollection<Region>;

/// All RAM of a guest.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemory,
    state: RamState,
    /// Whether dirty tracking is on. It orders starts, takes and stops.
    tracking: Mutex<bool>,
}

impl GuestRam {
    /// Maps guest RAM: zeroes, or the bytes of a file.
    ///
    /// # Errors
    /// [`Error::SizeZero`], [`Error::SizeUnaligned`], [`Error::Layout`] and
    /// [`Error::AddressSpace`] for a size or a layout that can not be; [`Error::ExceedsHost`],
    /// [`Error::HugePagesShort`], [`Error::HugePagesAbsent`] and [`Error::HostPageSize`] for what
    /// the host does not have; [`Error::FileTooShort`], [`Error::FileUnaligned`] and
    /// [`Error::FileLength`] for a file that can not be mapped; [`Error::Memfd`] and
    /// [`Error::Map`] when the host refuses.
    pub fn new(config: &RamConfig, layout: &RamLayout) -> Result<Self, Error> {
        let host_page = sys::host_page_size();
        if host_page != PAGE_SIZE {
            return Err(Error::HostPageSize(host_page));
        }
        let size = config.size.bytes();
        let spans = split(size, config.backing.pages().size(), layout)?;
        check_host(&config.backing, size)?;
        let store = Store::new(&config.backing, size)?;
        let regions = spans
            .iter()
            .enumerate()
            .map(|(slot, span)| store.map(slot, span));
        let memory = GuestMemory::from_regions(regions.collect::<Result<_, _>>()?)
            .map_err(|_| Error::AddressSpace(size))?;
        let state = RamState {
            size: config.size,
            layout: *layout,
        };
        Ok(Self {
            memory,
            state,
            tracking: Mutex::new(false),
        })
    }

    /// Maps the guest RAM of a saved machine; the bytes are those of `backing`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_state(state: &RamState, backing: Backing) -> Result<Self, Error> {
        Self::new(
            &RamConfig {
                size: state.size,
                backing,
            },
            &state.layout,
        )
    }

    /// What a saved machine must say about its guest RAM.
    pub fn state(&self) -> RamState {
        self.state
    }

    /// The bytes, by guest-physical address.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Bytes of guest RAM.
    pub fn size(&self) -> MemorySize {
        self.state.size
    }

    /// The contiguous parts, by ascending address: one, or two with the gap between them.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.memory.iter()
    }

    /// Gives the host pages of `len` bytes at `addr` back, and returns the bytes given back.
    ///
    /// Only whole pages go ([`Pages::size`]): the range is rounded inward. They read as zeroes
    /// afterwards, or as the file's bytes for [`Backing::PrivateFile`], and count as written. No
    /// device may have the pages pinned (VFIO): it would keep the old ones.
    ///
    /// # Errors
    /// [`Error::OutsideRam`] if the range is not inside one region, [`Error::Discard`] if the host
    /// refuses.
    pub fn discard(&self, addr: GuestAddress, len: u64) -> Result<u64, Error> {
        let outside = || Error::OutsideRam { addr, len };
        let region = self.memory.find_region(addr).ok_or_else(outside)?;
        let start = addr.0 - region.guest_base.0;
        let end = start
            .checked_add(len)
            .filter(|end| *end <= region.size)
            .ok_or_else(outside)?;
        let page = region.pages.size();
        // `start` is below the size of a mapping, so this can not overflow.
        let first = start.next_multiple_of(page);
        let count = (end - end % page).saturating_sub(first);
        if count == 0 {
            return Ok(0);
        }
        let result = match region.file() {
            Some((file, offset)) => sys::punch_hole(file, offset + first, count),
            None => region
                .mapping
                .advise(first as usize, count as usize, Advice::DontNeed),
        };
        result.map_err(|source| Error::Discard { addr, len, source })?;
        region.bitmap.mark_dirty(first as usize, count as usize);
        Ok(count)
    }

    /// Notes from now on which pages are written. Every write that this misses is visible to the
    /// caller when the call returns.
    ///
    /// Noted are writes through [`memory`](Self::memory) and [`discard`](Self::discard). The
    /// guest's own writes are in the hypervisor's log ([`DirtyLog::merge`]), and who writes through
    /// [`Region::host_addr`] marks the [`Region::dirty_bitmap`] after the write.
    ///
    /// # Errors
    /// [`Error::TrackingOn`] if it is on already; [`Error::Barrier`] if membarrier(2) is not
    /// there or not allowed.
    pub fn start_dirty(&self) -> Result<(), Error> {
        let mut tracking = self.lock_tracking();
        if *tracking {
            return Err(Error::TrackingOn);
        }
        self.regions().for_each(|region| region.bitmap.start());
        if let Err(source) = sys::barrier_on_all_threads() {
            self.regions().for_each(|region| region.bitmap.stop());
            return Err(Error::Barrier(source));
        }
        *tracking = true;
        Ok(())
    }

    /// Takes the pages that were written since the start or the last take. Read a page's bytes
    /// after taking it: a write that comes later is in the next log.
    ///
    /// # Errors
    /// [`Error::TrackingOff`].
    pub fn take_dirty(&self) -> Result<DirtyLog, Error> {
        let tracking = self.lock_tracking();
        if !*tracking {
            return Err(Error::TrackingOff);
        }
        let regions = self.regions().map(|region| RegionLog {
            guest_base: region.guest_base,
            pages: region.size / PAGE_SIZE,
            words: region.bitmap.take(),
        });
        Ok(DirtyLog {
            regions: regions.collect(),
        })
    }

    /// Marks the pages of a log that was taken but could not be used, so that the next take has
    /// them again.
    ///
    /// # Errors
    /// [`Error::TrackingOff`], and [`Error::LogShape`] for a log of other guest RAM; then nothing
    /// is marked.
    pub fn put_back_dirty(&self, log: &DirtyLog) -> Result<(), Error> {
        let tracking = self.lock_tracking();
        if !*tracking {
            return Err(Error::TrackingOff);
        }
        let shape: Vec<usize> = self
            .regions()
            .map(|region| words_for(region.size))
            .collect();
        log.check_shape(&shape)?;
        for (region, log) in self.regions().zip(&log.regions) {
            region.bitmap.mark_words(&log.words);
        }
        Ok(())
    }

    /// Stops noting writes and forgets those noted.
    pub fn stop_dirty(&self) {
        let mut tracking = self.lock_tracking();
        *tracking = false;
        self.regions().for_each(|region| region.bitmap.stop());
    }

    fn lock_tracking(&self) -> MutexGuard<'_, bool> {
        self.tracking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_host(backing: &Backing, size: u64) -> Result<(), Error> {
    match backing {
        Backing::Anonymous(pages) | Backing::Memfd(pages) if pages.is_hugetlb() => {
            host::check_huge_pages(*pages, size)
        }
        Backing::Anonymous(_) | Backing::Memfd(_) => host::check_memory(size),
        // Pages that are only read can be dropped and read again.
        Backing::PrivateFile { .. } => Ok(()),
    }
}

/// Where the regions of one guest RAM take their memory from.
enum Store {
    Anonymous(Pages),
    Shared(Arc<File>, Pages),
    Private(Arc<File>, u64),
}

impl Store {
    fn new(backing: &Backing, size: u64) -> Result<Self, Error> {
        match backing {
            Backing::Anonymous(pages) => Ok(Self::Anonymous(*pages)),
            Backing::Memfd(pages) => {
                let file = sys::memory_file(*pages, size)
                    .map_err(|source| Error::Memfd { size, source })?;
                Ok(Self::Shared(Arc::new(file), *pages))
            }
            Backing::PrivateFile { file, offset } => {
                check_file(file, *offset, size)?;
                Ok(Self::Private(Arc::clone(file), *offset))
            }
        }
    }

    fn map(&self, slot: usize, span: &Span) -> Result<Region, Error> {
        let Span {
            guest_base,
            size,
            ram_offset,
        } = *span;
        let (source, pages, file) = match self {
            Self::Anonymous(pages) => (Source::Anonymous(*pages), *pages, None),
            Self::Shared(file, pages) => {
                let offset = FileOffset::from_arc(Arc::clone(file), ram_offset);
                (Source::Shared(file, ram_offset), *pages, Some(offset))
            }
            Self::Private(file, offset) => (
                Source::Private(file, offset + ram_offset),
                Pages::Small,
                None,
            ),
        };
        let failed = |source| Error::Map {
            guest_base,
            size,
            source,
        };
        let len = size as usize;
        let align = pages.alignment() as usize;
        let mapping = Mapping::new(&source, len, align, guest_base.0).map_err(failed)?;
        // What the guest keeps secret does not belong into a core dump.
        mapping.advise(0, len, Advice::DontDump).map_err(failed)?;
        if pages == Pages::Transparent {
            // A kernel without transparent huge pages refuses; small pages do.
            let _ = mapping.advise(0, len, Advice::HugePages);
        }
        Ok(Region {
            slot,
            guest_base,
            size,
            pages,
            mapping,
            file,
            bitmap: DirtyBitmap::new(size),
        })
    }
}

fn check_file(file: &File, offset: u64, size: u64) -> Result<(), Error> {
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Error::FileUnaligned(offset));
    }
    let len = file.metadata().map_err(Error::FileLength)?.len();
    if offset.checked_add(size).is_none_or(|end| end > len) {
        return Err(Error::FileTooShort { len, offset, size });
    }
    Ok(())
}
