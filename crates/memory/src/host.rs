//! What the host has to give: memory, swap and huge pages.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Pages};

const MEMINFO: &str = "/proc/meminfo";

/// Checks that the host has `size` bytes of memory and swap, used or not.
pub(crate) fn check_memory(size: u64) -> Result<(), Error> {
    let host = memory_and_swap(&read(Path::new(MEMINFO))?).ok_or(Error::HostFactMissing {
        path: MEMINFO.into(),
        wanted: "MemTotal and SwapTotal",
    })?;
    if size > host {
        return Err(Error::ExceedsHost { size, host });
    }
    Ok(())
}

/// Checks that the host's pool has enough huge pages for `size` bytes.
pub(crate) fn check_huge_pages(pages: Pages, size: u64) -> Result<(), Error> {
    let directory = PathBuf::from(format!(
        "/sys/kernel/mm/hugepages/hugepages-{}kB",
        pages.size() >> 10
    ));
    if !directory.is_dir() {
        return Err(Error::HugePagesAbsent(pages));
    }
    let count = |name: &str| {
        let path = directory.join(name);
        let text = read(&path)?;
        let number = text.trim().parse::<u64>();
        number.map_err(|_| Error::HostFactMissing {
            path,
            wanted: "a number",
        })
    };
    let pool = Pool {
        total: count("nr_hugepages")?,
        free: count("free_hugepages")?,
        reserved: count("resv_hugepages")?,
        surplus: count("surplus_hugepages")?,
        overcommit: count("nr_overcommit_hugepages")?,
    };
    let needed = size / pages.size();
    let free = pool.available();
    if needed > free {
        return Err(Error::HugePagesShort {
            pages,
            needed,
            free,
            total: pool.total.saturating_add(needed - free),
            remedy: directory.join("nr_hugepages"),
        });
    }
    Ok(())
}

/// The numbers of one hugetlb pool, in huge pages.
struct Pool {
    total: u64,
    free: u64,
    reserved: u64,
    surplus: u64,
    overcommit: u64,
}

impl Pool {
    /// Huge pages that a new mapping can still reserve.
    fn available(&self) -> u64 {
        let unreserved = self.free.saturating_sub(self.reserved);
        unreserved.saturating_add(self.overcommit.saturating_sub(self.surplus))
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::HostFact {
        path: path.into(),
        source,
    })
}

/// The bytes that the text of /proc/meminfo states as `MemTotal` and `SwapTotal`.
fn memory_and_swap(meminfo: &str) -> Option<u64> {
    let bytes = |key: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()?
            .checked_mul(1024)
    };
    bytes("MemTotal:")?.checked_add(bytes("SwapTotal:")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_and_swap_are_added() {
        let text = "MemTotal:       24684600 kB\nMemFree: 1 kB\nSwapTotal:  1024 kB\n";
        assert_eq!(memory_and_swap(text), Some((24_684_600 + 1024) << 10));
        for text in ["", "MemTotal: 5 kB\n", "MemTotal: x kB\nSwapTotal: 0 kB\n"] {
            assert_eq!(memory_and_swap(text), None);
        }
    }

    #[test]
    fn more_than_the_host_has_is_refused() {
        check_memory(4096).unwrap();
        let error = check_memory(1 << 60).unwrap_err();
        assert!(matches!(error, Error::ExceedsHost { size, .. } if size == 1 << 60));
        assert!(error.to_string().contains("1048576TiB"), "{error}");
    }

    #[test]
    fn reserved_huge_pages_are_not_free_and_overcommitted_ones_are() {
        let pool = Pool {
            total: 10,
            free: 6,
            reserved: 4,
            surplus: 1,
            overcommit: 3,
        };
        assert_eq!(pool.available(), 4);
    }

    #[test]
    fn a_pool_that_is_too_small_is_refused_with_the_remedy() {
        match check_huge_pages(Pages::Huge2M, 1 << 50) {
            Err(error @ Error::HugePagesShort { needed, .. }) => {
                assert_eq!(needed, 1 << 29);
                assert!(
                    error.to_string().contains("hugepages-2048kB/nr_hugepages"),
                    "{error}"
                );
            }
            Err(Error::HugePagesAbsent(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}
