//! What a request says, before anything is done about it.

use super::device::SERIAL;
use crate::disk::SECTOR;
use crate::slow::Range;

/// Bytes of a request's header (virtio 1.2, 5.2.6).
pub(crate) const HEADER: usize = 16;

/// Bytes of one range of a discard or write-zeroes request.
const RANGE: usize = 16;

/// Ranges that one discard or write-zeroes request may have.
pub(crate) const MAX_RANGES: usize = 64;

/// Sectors of one such range (2 GiB): so that a request does not last for ever.
pub(crate) const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// What a device answers (virtio 1.2, 5.2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// A request that is inside of the disk and may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Read {
        offset: u64,
        len: u64,
    },
    Write {
        offset: u64,
        len: u64,
    },
    Flush,
    GetId,
    /// Of ranges that are in the data.
    Discard,
    /// Over ranges that are in the data.
    WriteZeroes,
}

impl Request {
    /// Bytes that it transfers.
    pub(crate) fn bytes(&self) -> u64 {
        match self {
            Self::Read { len, .. } | Self::Write { len, .. } => *len,
            _ => 0,
        }
    }
}

/// What requests are checked against.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of the disk.
    pub(crate) size: u64,
    /// What offsets and lengths must be multiples of.
    pub(crate) alignment: u64,
    pub(crate) read_only: bool,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let found = bytes.get(at..at + N).and_then(|part| part.try_into().ok());
    found.unwrap_or([0; N])
}

impl Bounds {
    /// The byte offset of a range of sectors that is inside of the disk.
    fn locate(&self, sector: u64, len: u64) -> Result<u64, Status> {
        let offset = sector.checked_mul(SECTOR).ok_or(Status::IoError)?;
        let end = offset.checked_add(len).ok_or(Status::IoError)?;
        if end > self.size || !(offset | len).is_multiple_of(self.alignment) {
            return Err(Status::IoError);
        }
        Ok(offset)
    }

    fn writable(&self) -> Result<(), Status> {
        if self.read_only {
            Err(Status::IoError)
        } else {
            Ok(())
        }
    }

    /// Decodes a header, which is followed by `readable` bytes of data and `writable` bytes of
    /// room without the status.
    ///
    /// # Errors
    /// What to answer to a request that can not be.
    pub(crate) fn decode(
        &self,
        header: &[u8; HEADER],
        readable: u64,
        writable: u64,
    ) -> Result<Request, Status> {
        let sector = u64::from_le_bytes(number(header, 8));
        match u32::from_le_bytes(number(header, 0)) {
            0 => {
                let len = writable;
                let offset = self.locate(sector, len)?;
                Ok(Request::Read { offset, len })
            }
            1 => {
                self.writable()?;
                let len = readable;
                let offset = self.locate(sector, len)?;
                Ok(Request::Write { offset, len })
            }
            4 => Ok(Request::Flush),
            // The buffer is as long as the answer (virtio 1.2, 5.2.6.2).
            8 if writable < SERIAL as u64 => Err(Status::IoError),
            8 => Ok(Request::GetId),
            11 => self.writable().map(|()| Request::Discard),
            13 => self.writable().map(|()| Request::WriteZeroes),
            _ => Err(Status::Unsupported),
        }
    }

    /// Decodes the ranges of a discard or, with `zeroes`, of a write-zeroes request.
    ///
    /// # Errors
    /// What to answer to ranges that can not be.
    pub(crate) fn ranges(&self, data: &[u8], zeroes: bool) -> Result<Vec<Range>, Status> {
        if data.is_empty() || !data.len().is_multiple_of(RANGE) || data.len() > MAX_RANGES * RANGE {
            return Err(Status::IoError);
        }
        let one = |raw: &[u8]| {
            let sectors = u32::from_le_bytes(number(raw, 8));
            let flags = u32::from_le_bytes(number(raw, 12));
            // Bit 0 is `unmap`, which a discard must not set (virtio 1.2, 5.2.6.2).
            if flags & !u32::from(zeroes) != 0 {
                return Err(Status::Unsupported);
            }
            if sectors > MAX_RANGE_SECTORS {
                return Err(Status::IoError);
            }
            let len = u64::from(sectors) * SECTOR;
            let offset = self.locate(u64::from_le_bytes(number(raw, 0)), len)?;
            let unmap = flags & 1 != 0;
            Ok(Range { offset, len, unmap })
        };
        data.chunks_exact(RANGE).map(one).collect()
    }
}

/// Decodes whatever `data` says as a header, sizes of the data and ranges: for fuzzing.
///
/// Returns whether anything of it was a request.
#[cfg(feature = "test-utils")]
pub fn exercise(data: &[u8]) -> bool {
    let header: [u8; HEADER] = number(data, 0);
    let bounds = Bounds {
        size: u64::from_le_bytes(number(data, 16)) & !511,
        alignment: if number::<1>(data, 24) == [0] {
            512
        } else {
            4096
        },
        read_only: number::<1>(data, 25) == [1],
    };
    let (readable, writable) = (
        u32::from_le_bytes(number(data, 26)).into(),
        u32::from_le_bytes(number(data, 30)).into(),
    );
    let decoded = bounds.decode(&header, readable, writable);
    if let Ok(Request::Read { offset, len } | Request::Write { offset, len }) = decoded {
        assert!(
            offset
                .checked_add(len)
                .is_some_and(|end| end <= bounds.size)
        );
        assert!((offset | len).is_multiple_of(bounds.alignment));
    }
    if let Ok(Request::Write { .. } | Request::Discard | Request::WriteZeroes) = decoded {
        assert!(!bounds.read_only);
    }
    let mut found = decoded.is_ok();
    for zeroes in [false, true] {
        let ranges = bounds.ranges(data.get(34..).unwrap_or_default(), zeroes);
        for range in ranges.into_iter().flatten() {
            assert!(range.offset + range.len <= bounds.size);
            assert!(zeroes || !range.unmap);
            found = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        size: 1 << 20,
        alignment: 512,
        read_only: false,
    };

    fn header(kind: u32, sector: u64) -> [u8; HEADER] {
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&kind.to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        header
    }

    fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
        let mut raw = sector.to_le_bytes().to_vec();
        raw.extend(sectors.to_le_bytes());
        raw.extend(flags.to_le_bytes());
        raw
    }

    #[test]
    fn reads_and_writes_must_be_inside_of_the_disk() {
        let read = |sector, len| BOUNDS.decode(&header(0, sector), 0, len);
        let (offset, len) = (1 << 19, 4096);
        assert_eq!(read(1 << 10, 4096), Ok(Request::Read { offset, len }));
        assert!(read(2047, 512).is_ok());
        assert_eq!(read(2047, 1024), Err(Status::IoError));
        assert_eq!(read(2048, 512), Err(Status::IoError));
        assert_eq!(read(u64::MAX, 512), Err(Status::IoError));
        assert_eq!(read(u64::MAX / 512, 512), Err(Status::IoError));
        assert_eq!(read(0, 511), Err(Status::IoError));
    }

    #[test]
    fn alignment_is_that_of_the_disk() {
        let coarse = Bounds {
            alignment: 4096,
            ..BOUNDS
        };
        assert!(coarse.decode(&header(1, 8), 4096, 0).is_ok());
        assert_eq!(coarse.decode(&header(1, 1), 4096, 0), Err(Status::IoError));
        assert_eq!(coarse.decode(&header(1, 0), 512, 0), Err(Status::IoError));
    }

    #[test]
    fn a_read_only_disk_is_not_changed() {
        let bounds = Bounds {
            read_only: true,
            ..BOUNDS
        };
        for kind in [1, 11, 13] {
            assert_eq!(
                bounds.decode(&header(kind, 0), 512, 0),
                Err(Status::IoError)
            );
        }
        assert!(bounds.decode(&header(0, 0), 0, 512).is_ok());
        assert_eq!(bounds.decode(&header(4, 0), 0, 0), Ok(Request::Flush));
    }

    #[test]
    fn unknown_requests_are_said_to_be_so() {
        for kind in [2, 3, 5, 9, 14, 16, u32::MAX] {
            assert_eq!(
                BOUNDS.decode(&header(kind, 0), 0, 0),
                Err(Status::Unsupported)
            );
        }
    }

    #[test]
    fn ranges_are_bounded() {
        assert_eq!(BOUNDS.ranges(&[], false).err(), Some(Status::IoError));
        assert_eq!(BOUNDS.ranges(&[0; 15], false).err(), Some(Status::IoError));
        let many = range(0, 1, 0).repeat(MAX_RANGES);
        assert_eq!(BOUNDS.ranges(&many, false).map(|r| r.len()), Ok(MAX_RANGES));
        let more = range(0, 1, 0).repeat(MAX_RANGES + 1);
        assert_eq!(BOUNDS.ranges(&more, false).err(), Some(Status::IoError));
        for (sector, sectors) in [(2048, 1), (0, 2049), (u64::MAX, 1), (0, u32::MAX)] {
            let raw = range(sector, sectors, 0);
            assert_eq!(BOUNDS.ranges(&raw, true).err(), Some(Status::IoError));
        }
    }

    #[test]
    fn flags_that_are_not_known_are_refused() {
        assert!(BOUNDS.ranges(&range(0, 1, 1), true).is_ok());
        for (flags, zeroes) in [(1, false), (2, true), (3, true), (1 << 31, false)] {
            let raw = range(0, 1, flags);
            assert_eq!(BOUNDS.ranges(&raw, zeroes).err(), Some(Status::Unsupported));
        }
    }
}
