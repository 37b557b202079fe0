//! A guest that drives a block device.

use std::sync::Arc;

use strata_block::{BlockControl, BlockDevice, BlockOptions, Disk};
use strata_virtio::test_utils::MockDriver;

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;

pub(crate) const IN: u32 = 0;
pub(crate) const OUT: u32 = 1;
pub(crate) const FLUSH: u32 = 4;
pub(crate) const GET_ID: u32 = 8;
pub(crate) const DISCARD: u32 = 11;
pub(crate) const WRITE_ZEROES: u32 = 13;

pub(crate) const F_RO: u64 = 1 << 5;
pub(crate) const F_FLUSH: u64 = 1 << 9;
pub(crate) const F_DISCARD: u64 = 1 << 13;

/// A driver that has started the device.
pub(crate) struct Guest {
    pub(crate) driver: MockDriver,
    pub(crate) control: BlockControl,
}

/// A request's header.
pub(crate) fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// One range of a discard or write-zeroes request.
pub(crate) fn range(sector: u64, sectors: u32, flags: u32) -> Vec<u8> {
    let mut raw = sector.to_le_bytes().to_vec();
    raw.extend(sectors.to_le_bytes());
    raw.extend(flags.to_le_bytes());
    raw
}

impl Guest {
    pub(crate) fn new(disk: Disk, options: BlockOptions) -> Self {
        Self::with_features(disk, options, u64::MAX)
    }

    pub(crate) fn with_features(disk: Disk, options: BlockOptions, features: u64) -> Self {
        let device = BlockDevice::new(Arc::new(disk), options).unwrap();
        let control = device.control();
        let mut driver = MockDriver::new(Box::new(device));
        driver.start(features);
        Self { driver, control }
    }

    /// Sends a request and returns the status.
    pub(crate) fn request(&mut self, kind: u32, sector: u64, data: &[u8]) -> u8 {
        let header = header(kind, sector);
        let readable: &[&[u8]] = if data.is_empty() {
            &[&header]
        } else {
            &[&header, data]
        };
        let used = self.driver.request(0, readable, &[1]);
        assert_eq!(used.len, 1);
        used.written[0]
    }

    /// Reads `len` bytes, or the status of the failure.
    pub(crate) fn read(&mut self, sector: u64, len: u32) -> Result<Vec<u8>, u8> {
        let used = self.driver.request(0, &[&header(IN, sector)], &[len, 1]);
        let (&status, data) = used.written.split_last().unwrap();
        match status {
            OK => {
                assert_eq!(used.len, len + 1);
                Ok(data.to_vec())
            }
            status => Err(status),
        }
    }

    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) -> u8 {
        self.request(OUT, sector, data)
    }

    pub(crate) fn flush(&mut self) -> u8 {
        self.request(FLUSH, 0, &[])
    }
}
