//! A GUID partition table with one partition (UEFI specification 2.10, chapter 5).

/// Bytes of a sector.
pub const SECTOR: u64 = 512;

/// Where the partition begins, in bytes: aligned to what any disk likes.
pub const START: u64 = 1 << 20;

/// The type of a root file system for x86-64 (UAPI.2, Discoverable Partitions Specification):
/// 4f68bce3-e8cd-4db1-96e7-fbcaf984b709.
const ROOT_X86_64: [u8; 16] = [
    0x4f, 0x68, 0xbc, 0xe3, 0xe8, 0xcd, 0x4d, 0xb1, 0x96, 0xe7, 0xfb, 0xca, 0xf9, 0x84, 0xb7, 0x09,
];

/// Table entries, their size, and the sectors that they take: the least that §5.3.2 allows.
const ENTRIES: u32 = 128;
const ENTRY: u32 = 128;
const TABLE_SECTORS: u64 = 32;

/// Parts of the disk that hold the table; all other bytes belong to the partition or to nobody.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// From the disk's first byte: protective MBR, header, entries.
    pub head: Vec<u8>,
    /// At the disk's end: entries, header.
    pub tail: Vec<u8>,
}

/// Bytes of the one partition of a disk of `size` bytes, a multiple of 1 MiB that is at least
/// 3 MiB: whole MiB, and the last for the table's copy.
///
/// # Panics
/// Of a smaller disk.
pub fn partition_size(size: u64) -> u64 {
    size - 2 * START
}

/// The table of a disk of `size` bytes (as above) with one root partition. `disk` and `partition`
/// are their GUIDs, as bytes in the order of their text.
///
/// # Panics
/// As [`partition_size`].
pub fn table(size: u64, disk: [u8; 16], partition: [u8; 16]) -> Table {
    let last = size / SECTOR - 1;
    let first_usable = 2 + TABLE_SECTORS;
    let last_usable = last - 1 - TABLE_SECTORS;

    let mut entries = Vec::with_capacity((ENTRIES * ENTRY) as usize);
    entries.extend(mixed_endian(ROOT_X86_64));
    entries.extend(mixed_endian(partition));
    entries.extend((START / SECTOR).to_le_bytes());
    entries.extend(((START + partition_size(size)) / SECTOR - 1).to_le_bytes());
    entries.extend(0u64.to_le_bytes()); // attributes
    entries.extend("root".encode_utf16().flat_map(u16::to_le_bytes));
    entries.resize((ENTRIES * ENTRY) as usize, 0);

    let header = |own: u64, other: u64, table: u64| {
        let mut header = Vec::with_capacity(SECTOR as usize);
        header.extend(b"EFI PART");
        header.extend(0x0001_0000u32.to_le_bytes());
        header.extend(92u32.to_le_bytes()); // its length
        header.extend([0; 8]); // its CRC, below; reserved
        for number in [own, other, first_usable, last_usable] {
            header.extend(number.to_le_bytes());
        }
        header.extend(mixed_endian(disk));
        header.extend(table.to_le_bytes());
        header.extend(ENTRIES.to_le_bytes());
        header.extend(ENTRY.to_le_bytes());
        header.extend(crc32fast::hash(&entries).to_le_bytes());
        let crc = crc32fast::hash(&header).to_le_bytes();
        header[16..20].copy_from_slice(&crc);
        header.resize(SECTOR as usize, 0);
        header
    };

    let mut head = protective_mbr(last);
    head.extend(header(1, last, 2));
    head.extend(&entries);
    let mut tail = entries.clone();
    tail.extend(header(last, 1, last - TABLE_SECTORS));
    Table { head, tail }
}

/// Keeps programs that know no GPT off the disk (§5.2.3).
fn protective_mbr(last: u64) -> Vec<u8> {
    let mut mbr = vec![0; SECTOR as usize];
    let partition = &mut mbr[446..462];
    partition[1..8].copy_from_slice(&[0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
    partition[8..12].copy_from_slice(&1u32.to_le_bytes());
    let sectors = u32::try_from(last).unwrap_or(u32::MAX);
    partition[12..16].copy_from_slice(&sectors.to_le_bytes());
    mbr[510..].copy_from_slice(&[0x55, 0xaa]);
    mbr
}

/// On disk, a GUID's first three fields are little-endian (appendix A).
fn mixed_endian(mut guid: [u8; 16]) -> [u8; 16] {
    guid[..4].reverse();
    guid[4..6].reverse();
    guid[6..8].reverse();
    guid
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn number(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn both_headers_agree() {
        let table = table(SIZE, [1; 16], [2; 16]);
        let sectors = SIZE / SECTOR;
        let (first, second) = (&table.head[512..1024], &table.tail[32 * 512..]);
        assert_eq!((number(first, 24), number(first, 32)), (1, sectors - 1));
        assert_eq!((number(second, 24), number(second, 32)), (sectors - 1, 1));
        assert_eq!((number(first, 72), number(second, 72)), (2, sectors - 33));
        assert_eq!(first[40..72], second[40..72]);
        assert_eq!(table.head[1024..], table.tail[..32 * 512]);
        for header in [first, second] {
            let mut bare = header[..92].to_vec();
            bare[16..20].fill(0);
            assert_eq!(header[16..20], crc32fast::hash(&bare).to_le_bytes());
        }
    }

    #[test]
    fn the_partition_stays_clear_of_the_table() {
        let table = table(SIZE, [1; 16], [2; 16]);
        let entry = &table.head[1024..];
        let (first, last) = (number(entry, 32), number(entry, 40));
        assert!(first * SECTOR >= table.head.len() as u64);
        assert!((last + 1) * SECTOR + table.tail.len() as u64 <= SIZE);
        assert_eq!((last + 1 - first) * SECTOR, partition_size(SIZE));
    }
}
