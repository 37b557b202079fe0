use std::fs::File;
use std::sync::Arc;

use vm_memory::GuestAddress;

use crate::{Error, MemorySize, PAGE_SIZE};

/// The alignment that lets the host map guest RAM by 2 MiB, whatever its own pages are.
const ALIGN: u64 = 2 << 20;

/// How large guest RAM is and what backs it.
#[derive(Debug, Clone)]
pub struct RamConfig {
    /// Bytes of guest RAM: a multiple of [`Pages::size`].
    pub size: MemorySize,
    /// What the bytes are kept in.
    pub backing: Backing,
}

impl RamConfig {
    /// Anonymous memory of `size` bytes in transparent huge pages.
    pub fn new(size: MemorySize) -> Self {
        Self {
            size,
            backing: Backing::default(),
        }
    }
}

/// What keeps the bytes of guest RAM.
#[derive(Debug, Clone)]
pub enum Backing {
    /// Private memory of this process.
    Anonymous(Pages),
    /// A memory file that other processes (vhost-user) can map. It is sealed against resizing.
    Memfd(Pages),
    /// A file that is read where guest RAM has not been written, and is never written itself. Many
    /// guests may use one file.
    PrivateFile {
        /// The file. Whoever can shorten it can end this process by SIGBUS.
        file: Arc<File>,
        /// Where guest RAM begins in it, in bytes: low RAM and at once after it high RAM. A
        /// multiple of [`PAGE_SIZE`].
        offset: u64,
    },
}

impl Default for Backing {
    fn default() -> Self {
        Self::Anonymous(Pages::Transparent)
    }
}

impl Backing {
    pub(crate) fn pages(&self) -> Pages {
        match self {
            Self::Anonymous(pages) | Self::Memfd(pages) => *pages,
            Self::PrivateFile { .. } => Pages::Small,
        }
    }
}

/// The host pages that guest RAM is made of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pages {
    /// Pages of 4 KiB.
    Small,
    /// Pages of 4 KiB that the host's kernel joins to 2 MiB where it can.
    #[default]
    Transparent,
    /// Pages of 2 MiB from the host's hugetlb pool, reserved for this guest.
    Huge2M,
    /// Pages of 1 GiB from the host's hugetlb pool, reserved for this guest.
    Huge1G,
}

impl Pages {
    /// Bytes of the smallest page that guest RAM is made of.
    pub const fn size(self) -> u64 {
        match self {
            Self::Small | Self::Transparent => PAGE_SIZE,
            Self::Huge2M => 2 << 20,
            Self::Huge1G => 1 << 30,
        }
    }

    pub(crate) const fn is_hugetlb(self) -> bool {
        matches!(self, Self::Huge2M | Self::Huge1G)
    }

    /// Guest-physical and host addresses are congruent modulo this number of bytes.
    pub(crate) fn alignment(self) -> u64 {
        self.size().max(ALIGN)
    }
}

/// Where guest RAM lies: below a gap, which holds the devices' 32-bit addresses, and above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RamLayout {
    /// The first guest-physical address above low RAM, which begins at 0.
    pub low_end: u64,
    /// The first guest-physical address of high RAM, used by what does not fit into low RAM.
    pub high_start: u64,
}

/// What a saved machine must say about its guest RAM, beside the contents.
///
/// Its fields are untrusted: [`GuestRam::from_state`](crate::GuestRam::from_state) checks them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RamState {
    /// Bytes of guest RAM.
    pub size: MemorySize,
    /// Where they lie.
    pub layout: RamLayout,
}

impl RamState {
    /// The kind and the version of this state in a saved machine.
    pub const ID: (&'static str, u32) = ("guest-ram", 1);
}

/// A contiguous part of guest RAM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) guest_base: GuestAddress,
    /// Bytes.
    pub(crate) size: u64,
    /// How many bytes of guest RAM lie below.
    pub(crate) ram_offset: u64,
}

/// Splits `size` bytes of guest RAM, made of pages of `page` bytes, at the gap of `layout`.
pub(crate) fn split(size: u64, page: u64, layout: &RamLayout) -> Result<Vec<Span>, Error> {
    if size == 0 {
        return Err(Error::SizeZero);
    }
    if !size.is_multiple_of(page) {
        return Err(Error::SizeUnaligned { size, page });
    }
    let RamLayout {
        low_end,
        high_start,
    } = *layout;
    let aligned = low_end.is_multiple_of(page) && high_start.is_multiple_of(page);
    if !aligned || low_end == 0 || low_end > high_start {
        return Err(Error::Layout {
            low_end,
            high_start,
            page,
        });
    }
    let low = Span {
        guest_base: GuestAddress(0),
        size: size.min(low_end),
        ram_offset: 0,
    };
    let high = Span {
        guest_base: GuestAddress(high_start),
        size: size - low.size,
        ram_offset: low.size,
    };
    // A mapping's length is an isize, and the last address that is used is one below the end.
    if isize::try_from(size).is_err() || high_start.checked_add(high.size).is_none() {
        return Err(Error::AddressSpace(size));
    }
    Ok([low, high]
        .into_iter()
        .filter(|span| span.size > 0)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: RamLayout = RamLayout {
        low_end: 0xc000_0000,
        high_start: 1 << 32,
    };

    fn spans(size: u64) -> Vec<(u64, u64, u64)> {
        let spans = split(size, PAGE_SIZE, &LAYOUT).unwrap();
        spans
            .iter()
            .map(|s| (s.guest_base.0, s.size, s.ram_offset))
            .collect()
    }

    #[test]
    fn ram_is_split_at_the_gap_only_when_it_reaches_it() {
        assert_eq!(spans(4096), [(0, 4096, 0)]);
        assert_eq!(spans(0xc000_0000), [(0, 0xc000_0000, 0)]);
        assert_eq!(
            spans(0xc000_1000),
            [(0, 0xc000_0000, 0), (1 << 32, 0x1000, 0xc000_0000)]
        );
        assert_eq!(
            spans(1 << 40),
            [
                (0, 0xc000_0000, 0),
                (1 << 32, (1 << 40) - 0xc000_0000, 0xc000_0000)
            ]
        );
    }

    #[test]
    fn impossible_sizes_are_refused() {
        assert!(matches!(split(0, PAGE_SIZE, &LAYOUT), Err(Error::SizeZero)));
        for size in [1, 4095, 4097, u64::MAX] {
            let error = split(size, PAGE_SIZE, &LAYOUT).unwrap_err();
            assert!(matches!(error, Error::SizeUnaligned { .. }), "{error}");
            assert!(error.to_string().contains("would be"));
        }
        let huge = u64::MAX - 4095;
        assert!(matches!(
            split(huge, PAGE_SIZE, &LAYOUT),
            Err(Error::AddressSpace(_))
        ));
        let far = RamLayout {
            low_end: 1 << 30,
            high_start: u64::MAX - 4095,
        };
        assert!(matches!(
            split(2 << 30, PAGE_SIZE, &far),
            Err(Error::AddressSpace(_))
        ));
    }

    #[test]
    fn a_gap_that_is_turned_around_or_uneven_is_refused() {
        for (low_end, high_start) in [
            (0, 1 << 32),
            (1 << 32, 0xc000_0000),
            (4097, 1 << 32),
            (0xc000_0000, (1 << 32) + 1),
        ] {
            let layout = RamLayout {
                low_end,
                high_start,
            };
            assert!(matches!(
                split(4096, PAGE_SIZE, &layout),
                Err(Error::Layout { .. })
            ));
        }
        let page = Pages::Huge1G.size();
        let layout = RamLayout {
            low_end: 0xe000_0000,
            high_start: 1 << 32,
        };
        assert!(matches!(
            split(page, page, &layout),
            Err(Error::Layout { .. })
        ));
    }

    #[test]
    fn hugetlb_ram_is_made_of_whole_huge_pages() {
        let page = Pages::Huge2M.size();
        let error = split((3 << 20) + 4096, page, &LAYOUT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the guest's memory size 3076KiB is no multiple of its 2MiB pages; 2MiB would be"
        );
        assert_eq!(split(4 << 20, page, &LAYOUT).unwrap().len(), 1);
    }
}
