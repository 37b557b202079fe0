//! Which parts of a buffer are worth writing.

const SECTOR: usize = 512;

/// Whether all bytes are zero.
pub(super) fn is_zero(buf: &[u8]) -> bool {
    // Wide blocks first: the compiler makes vector code of the inner fold.
    let (blocks, rest) = buf.as_chunks::<256>();
    blocks
        .iter()
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// Finds runs of data and of zeroes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scanner {
    /// Zeroes shorter than this many sectors between data are written along.
    pub(super) min_sparse: usize,
    /// Runs end at multiples of this many sectors, a power of two: a write of a part of such a
    /// unit would read and rewrite the rest.
    pub(super) alignment: usize,
}

impl Scanner {
    /// Length in bytes of the run at the front of `buf`, whose first byte is sector `first` of
    /// the target, and whether it is data.
    pub(super) fn run(&self, buf: &[u8], first: u64) -> (usize, bool) {
        let (mut used, data) = self.like_units(buf, first);
        if !data {
            return (used, false);
        }
        let min = (self.min_sparse * SECTOR).min(buf.len());
        let mut checked = used;
        while checked < buf.len() {
            let here = first + (checked / SECTOR) as u64;
            let (length, data) = self.like_units(&buf[checked..], here);
            checked += length;
            if data {
                used = checked;
            } else if length >= min {
                break;
            }
        }
        (used, true)
    }

    /// Length of the run of units that are all data or all zeroes. A unit is data if any of it is
    /// not zero, so that data is mostly known by its first bytes.
    fn like_units(&self, buf: &[u8], first: u64) -> (usize, bool) {
        let unit = self.alignment * SECTOR;
        let lead = (first as usize & (self.alignment - 1)) * SECTOR;
        let mut end = (unit - lead).min(buf.len());
        let data = !is_zero(&buf[..end]);
        while end < buf.len() {
            let next = (end + unit).min(buf.len());
            if is_zero(&buf[end..next]) == data {
                break;
            }
            end = next;
        }
        (end, data)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(sectors: &[u8]) -> Vec<u8> {
        sectors.iter().flat_map(|byte| [*byte; SECTOR]).collect()
    }

    #[test]
    fn runs_end_at_the_alignment() {
        let scanner = Scanner {
            min_sparse: 8,
            alignment: 8,
        };
        let mut sectors = vec![0; 32];
        sectors[3] = 1;
        // Zeroes before data in the same unit are data; the unit ends at sector 8.
        assert_eq!(scanner.run(&buffer(&sectors), 0), (8 * SECTOR, true));
        assert_eq!(
            scanner.run(&buffer(&sectors)[8 * SECTOR..], 8),
            (24 * SECTOR, false)
        );
        sectors[20] = 1;
        assert_eq!(
            scanner.run(&buffer(&sectors)[8 * SECTOR..], 8),
            (8 * SECTOR, false)
        );
    }

    #[test]
    fn short_gaps_are_data() {
        let scanner = Scanner {
            min_sparse: 8,
            alignment: 1,
        };
        let mut sectors = vec![1; 32];
        sectors[4..10].fill(0);
        assert_eq!(scanner.run(&buffer(&sectors), 0), (32 * SECTOR, true));
        sectors[4..12].fill(0);
        assert_eq!(scanner.run(&buffer(&sectors), 0), (4 * SECTOR, true));
        assert!(is_zero(&buffer(&[0; 3])[..700]) && !is_zero(&[0, 0, 1]));
    }
}
