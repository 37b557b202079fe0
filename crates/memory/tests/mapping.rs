//! Where guest RAM lies on the host, and what happens to its bytes.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test may panic as the test may"
)]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use strata_memory::{Backing, Error, GuestRam, MemorySize, Pages, RamConfig, RamLayout};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

const MIB: u64 = 1 << 20;
const LAYOUT: RamLayout = RamLayout {
    low_end: 16 * MIB,
    high_start: 1 << 32,
};

fn ram(size: u64, backing: Backing) -> GuestRam {
    GuestRam::new(
        &RamConfig {
            size: MemorySize::new(size),
            backing,
        },
        &LAYOUT,
    )
    .unwrap()
}

fn backings(file_len: u64) -> Vec<Backing> {
    let file = tempfile::tempfile().unwrap();
    file.set_len(file_len + 4096).unwrap();
    vec![
        Backing::Anonymous(Pages::Small),
        Backing::Anonymous(Pages::Transparent),
        Backing::Memfd(Pages::Small),
        Backing::Memfd(Pages::Transparent),
        Backing::PrivateFile {
            file: Arc::new(file),
            offset: 4096,
        },
    ]
}

/// The permissions of the mapping that holds `addr`, and the flags that the kernel keeps of it.
fn mapping_at(addr: usize) -> (String, String) {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let mut inside = None;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first.split_once('-').and_then(|(from, to)| {
            let hex = |text| usize::from_str_radix(text, 16).ok();
            Some(hex(from)?..hex(to)?)
        });
        match (range, &inside) {
            (Some(range), None) if range.contains(&addr) => {
                inside = Some(words.next().unwrap().to_owned());
            }
            (None, Some(permissions)) if first == "VmFlags:" => {
                return (permissions.clone(), words.collect::<Vec<_>>().join(" "));
            }
            _ => {}
        }
    }
    panic!("nothing is mapped at {addr:#x}");
}

#[test]
fn host_and_guest_addresses_are_congruent_modulo_2_mib() {
    let uneven = RamLayout {
        low_end: 16 * MIB,
        high_start: (1 << 32) + 0x3000,
    };
    for backing in backings(40 * MIB) {
        for layout in [LAYOUT, uneven] {
            let size = MemorySize::new(40 * MIB);
            let ram = GuestRam::new(
                &RamConfig {
                    size,
                    backing: backing.clone(),
                },
                &layout,
            )
            .unwrap();
            assert_eq!(ram.regions().count(), 2);
            for region in ram.regions() {
                let host = region.host_addr() as u64;
                assert_eq!(
                    host % (2 * MIB),
                    region.guest_base().0 % (2 * MIB),
                    "{backing:?}"
                );
            }
        }
    }
}

#[test]
fn both_ends_of_a_region_are_guarded() {
    let ram = ram(40 * MIB, Backing::default());
    for region in ram.regions() {
        let first = region.host_addr() as usize;
        let end = first + region.size() as usize;
        assert_eq!(mapping_at(first).0, "rw-p");
        assert_eq!(mapping_at(end - 1).0, "rw-p");
        assert_eq!(mapping_at(first - 1).0, "---p");
        assert_eq!(mapping_at(end).0, "---p");
    }
}

#[test]
fn transparent_huge_pages_are_asked_for_where_configured() {
    for (pages, advised) in [(Pages::Transparent, true), (Pages::Small, false)] {
        for backing in [Backing::Anonymous(pages), Backing::Memfd(pages)] {
            let ram = ram(4 * MIB, backing);
            let (_, flags) = mapping_at(ram.regions().next().unwrap().host_addr() as usize);
            assert_eq!(
                flags.split(' ').any(|flag| flag == "hg"),
                advised,
                "{flags}"
            );
            assert!(flags.split(' ').any(|flag| flag == "dd"), "{flags}");
        }
    }
}

#[test]
fn every_byte_can_be_used_and_none_beside() {
    for backing in backings(40 * MIB) {
        let ram = ram(40 * MIB, backing);
        let memory = ram.memory();
        let high_last = (1 << 32) + 24 * MIB - 1;
        for (addr, value) in [(0, 1_u8), (16 * MIB - 1, 2), (1 << 32, 3), (high_last, 4)] {
            memory.write_obj(value, GuestAddress(addr)).unwrap();
            assert_eq!(memory.read_obj::<u8>(GuestAddress(addr)).unwrap(), value);
        }
        for addr in [16 * MIB, (1 << 32) - 1, high_last + 1, u64::MAX] {
            memory.read_obj::<u8>(GuestAddress(addr)).unwrap_err();
        }
        memory
            .write_obj(5_u16, GuestAddress(16 * MIB - 1))
            .unwrap_err();

        let region = memory.find_region(GuestAddress(1 << 32)).unwrap();
        let len = region.size() as usize;
        assert_eq!(
            region.get_slice(MemoryRegionAddress(0), len).unwrap().len(),
            len
        );
        for (offset, count) in [(1, len), (u64::MAX, 2), (0, usize::MAX), (len as u64, 1)] {
            assert!(
                region
                    .get_slice(MemoryRegionAddress(offset), count)
                    .is_err()
            );
        }
    }
}

#[test]
fn shared_ram_is_in_a_file_that_can_not_be_resized() {
    let ram = ram(40 * MIB, Backing::Memfd(Pages::Small));
    ram.memory()
        .write_slice(b"low", GuestAddress(0x1000))
        .unwrap();
    ram.memory()
        .write_slice(b"high", GuestAddress((1 << 32) + 0x2000))
        .unwrap();
    for (slot, at, text) in [(0, 0x1000, "low"), (1, 0x2000, "high")] {
        let region = ram.regions().nth(slot).unwrap();
        let (file, offset) = region.file().unwrap();
        let mut bytes = vec![0; text.len()];
        file.read_exact_at(&mut bytes, offset + at).unwrap();
        assert_eq!(bytes, text.as_bytes());
        assert!(file.set_len(0).is_err());
        assert!(file.set_len(1 << 40).is_err());
    }
}

#[test]
fn a_private_file_is_read_and_never_written() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096 + 40 * MIB).unwrap();
    file.write_all_at(b"template", 4096 + 16 * MIB).unwrap();
    let backing = Backing::PrivateFile {
        file: Arc::new(file),
        offset: 4096,
    };
    let (one, two) = (
        ram(40 * MIB, backing.clone()),
        ram(40 * MIB, backing.clone()),
    );
    let addr = GuestAddress(1 << 32);
    let read = |ram: &GuestRam| {
        let mut bytes = [0; 8];
        ram.memory().read_slice(&mut bytes, addr).unwrap();
        bytes
    };
    assert_eq!(&read(&one), b"template");
    one.memory().write_slice(b"my own..", addr).unwrap();
    assert_eq!(&read(&one), b"my own..");
    assert_eq!(&read(&two), b"template");
    assert!(one.regions().all(|region| region.file().is_none()));

    assert_eq!(one.discard(addr, 4096).unwrap(), 4096);
    assert_eq!(&read(&one), b"template");
}

#[test]
fn discarded_pages_read_as_zeroes_and_their_neighbours_stay() {
    for pages in [Pages::Small, Pages::Transparent] {
        for backing in [Backing::Anonymous(pages), Backing::Memfd(pages)] {
            let ram = ram(4 * MIB, backing);
            let memory = ram.memory();
            memory
                .write_slice(&vec![7; 4 << 20], GuestAddress(0))
                .unwrap();
            let blocks = || {
                let file = ram.regions().next().unwrap().file()?.0;
                Some(file.metadata().unwrap().blocks())
            };
            let before = blocks();
            // Rounded inward: pages 1 to 299 of the bytes from the middle of page 0 on.
            assert_eq!(
                ram.discard(GuestAddress(0x800), 300 * 4096).unwrap(),
                299 * 4096
            );
            let byte = |addr| memory.read_obj::<u8>(GuestAddress(addr)).unwrap();
            assert_eq!(
                [
                    byte(0xfff),
                    byte(0x1000),
                    byte(300 * 4096 - 1),
                    byte(300 * 4096)
                ],
                [7, 0, 0, 7]
            );
            // Of a huge page that the hole cuts through, the kernel keeps more; and the count of
            // blocks lags behind by a few pages.
            if pages == Pages::Small {
                let freed = before.zip(blocks()).map(|(before, after)| before - after);
                assert!(freed.is_none_or(|freed| freed >= 290 * 8), "{freed:?}");
            }
        }
    }
}

#[test]
fn a_discard_of_no_whole_page_or_outside_of_ram_does_nothing() {
    let ram = ram(40 * MIB, Backing::default());
    ram.memory().write_obj(1_u8, GuestAddress(0)).unwrap();
    for (addr, len) in [(0, 4095), (0, 0), (1, 4096), (1, 8190)] {
        assert_eq!(
            ram.discard(GuestAddress(addr), len).unwrap(),
            0,
            "{addr} {len}"
        );
    }
    for (addr, len) in [
        (16 * MIB, 4096),
        (16 * MIB - 4096, 8192),
        (0, u64::MAX),
        (u64::MAX - 4095, 4096),
    ] {
        let error = ram.discard(GuestAddress(addr), len).unwrap_err();
        assert!(matches!(error, Error::OutsideRam { .. }), "{error}");
    }
    assert_eq!(ram.memory().read_obj::<u8>(GuestAddress(0)).unwrap(), 1);
}

#[test]
fn a_clone_of_the_memory_keeps_the_bytes() {
    let ram = ram(4 * MIB, Backing::default());
    ram.memory()
        .write_obj(0x1234_u32, GuestAddress(64))
        .unwrap();
    let host_addr = ram.regions().next().unwrap().host_addr() as usize;
    let memory = ram.memory().clone();
    drop(ram);
    assert_eq!(memory.read_obj::<u32>(GuestAddress(64)).unwrap(), 0x1234);
    drop(memory);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(!maps.contains(&format!("{host_addr:x}-")), "{maps}");
}

#[test]
fn one_tebibyte_works_to_its_last_page() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 40).unwrap();
    let layout = RamLayout {
        low_end: 0xc000_0000,
        high_start: 1 << 32,
    };
    let config = RamConfig {
        size: "1T".parse().unwrap(),
        backing: Backing::PrivateFile {
            file: Arc::new(file),
            offset: 0,
        },
    };
    let ram = GuestRam::new(&config, &layout).unwrap();
    ram.start_dirty().unwrap();
    let last = GuestAddress((1 << 32) + (1 << 40) - 0xc000_0000 - 4096);
    ram.memory().write_obj(9_u64, last).unwrap();
    let ranges: Vec<_> = ram.take_dirty().unwrap().ranges().collect();
    assert_eq!(ranges.len(), 1);
    assert_eq!(
        (ranges[0].slot, ranges[0].guest_base, ranges[0].len),
        (1, last, 4096)
    );
    assert_eq!(ram.discard(last, 4096).unwrap(), 4096);
    assert_eq!(ram.memory().read_obj::<u64>(last).unwrap(), 0);
}

#[test]
fn hugetlb_ram_works_or_says_what_is_missing() {
    for pages in [Pages::Huge2M, Pages::Huge1G] {
        for backing in [Backing::Anonymous(pages), Backing::Memfd(pages)] {
            let size = MemorySize::new(pages.size());
            let layout = RamLayout {
                low_end: 0xc000_0000,
                high_start: 1 << 32,
            };
            match GuestRam::new(&RamConfig { size, backing }, &layout) {
                Ok(ram) => {
                    let region = ram.regions().next().unwrap();
                    assert_eq!(region.host_addr() as u64 % pages.size(), 0);
                    assert_eq!(region.is_hugetlbfs(), Some(true));
                    ram.memory()
                        .write_obj(1_u8, GuestAddress(pages.size() - 1))
                        .unwrap();
                    assert_eq!(ram.discard(GuestAddress(0), pages.size() - 1).unwrap(), 0);
                    assert_eq!(
                        ram.discard(GuestAddress(0), pages.size()).unwrap(),
                        pages.size()
                    );
                    let last = GuestAddress(pages.size() - 1);
                    assert_eq!(ram.memory().read_obj::<u8>(last).unwrap(), 0);
                }
                Err(Error::HugePagesShort {
                    needed,
                    free,
                    remedy,
                    ..
                }) => {
                    assert!(free < needed && remedy.ends_with("nr_hugepages"));
                }
                Err(error) => assert!(matches!(error, Error::HugePagesAbsent(_)), "{error}"),
            }
        }
    }
}

#[test]
fn what_can_not_be_is_refused_with_a_sentence() {
    let short = tempfile::tempfile().unwrap();
    short.set_len(4 * MIB).unwrap();
    let short = Arc::new(short);
    let file = |offset| Backing::PrivateFile {
        file: Arc::clone(&short),
        offset,
    };
    for (size, backing, words) in [
        (0, Backing::default(), "size is 0"),
        (
            4097,
            Backing::default(),
            "4097B is no multiple of its 4KiB pages; 4KiB would be",
        ),
        (
            3 * MIB,
            Backing::Memfd(Pages::Huge2M),
            "no multiple of its 2MiB pages; 2MiB would be",
        ),
        (
            1 << 60,
            Backing::default(),
            "more than this host's memory and swap",
        ),
        (
            1 << 60,
            Backing::Memfd(Pages::Small),
            "more than this host's memory and swap",
        ),
        (
            u64::MAX - 4095,
            Backing::default(),
            "do not fit into the address space",
        ),
        (4 * MIB, file(4096), "has 4194304 bytes"),
        (4 * MIB, file(u64::MAX - 4095), "has 4194304 bytes"),
        (MIB, file(1), "no multiple of 4096"),
    ] {
        let size = MemorySize::new(size);
        let error = GuestRam::new(&RamConfig { size, backing }, &LAYOUT).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn the_state_makes_ram_of_the_same_shape() {
    let first = ram(40 * MIB, Backing::default());
    let text = serde_json::to_string(&first.state()).unwrap();
    assert_eq!(
        text,
        r#"{"size":"40MiB","layout":{"low_end":16777216,"high_start":4294967296}}"#
    );
    let state = serde_json::from_str(&text).unwrap();
    let second = GuestRam::from_state(&state, Backing::Memfd(Pages::Small)).unwrap();
    assert_eq!(second.state(), first.state());
    assert_eq!(second.regions().count(), 2);

    for text in [
        r#"{"size":0,"layout":{"low_end":16777216,"high_start":4294967296}}"#,
        r#"{"size":4096,"layout":{"low_end":1,"high_start":4294967296}}"#,
    ] {
        let state = serde_json::from_str(text).unwrap();
        GuestRam::from_state(&state, Backing::default()).unwrap_err();
    }
    let bad = r#"{"size":"-1","layout":{"low_end":0,"high_start":0}}"#;
    assert!(serde_json::from_str::<strata_memory::RamState>(bad).is_err());
}
