//! What tests and fuzz targets do with images that nobody vouches for. Nothing here may panic,
//! loop long, or write where it is not allowed to.
#![allow(dead_code)]

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::Arc;

use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    Backing, CreateOptions, Error, Header, Image, NewSnapshot, OpenOptions, Preallocation, Repair,
    Storage,
};

/// A disk of this size is full.
const ROOM: u64 = 4 << 20;
const K: u64 = 1024;

/// A small disk, which may be write-protected. A write in spite of that is a panic.
struct Limited {
    inner: MemoryStorage,
    protected: bool,
}

impl Limited {
    fn check(&self, end: Option<u64>) -> io::Result<()> {
        assert!(
            !self.protected,
            "an image that was opened read-only is written"
        );
        match end {
            Some(end) if end <= ROOM => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Storage for Limited {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.inner.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let length: usize = bufs.iter().map(|buf| buf.len()).sum();
        self.check(offset.checked_add(length as u64))?;
        self.inner.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check(Some(len))?;
        self.inner.set_len(len)
    }

    fn discard(&self, _offset: u64, _len: u64) -> io::Result<()> {
        self.check(Some(0))
    }
}

fn open(bytes: &[u8], writable: bool, allow_corrupt: bool) -> Result<Image, Error> {
    let inner = MemoryStorage::new(bytes.to_vec());
    let storage = Arc::new(Limited {
        inner,
        protected: !writable,
    });
    let options = OpenOptions {
        writable,
        allow_corrupt,
        backing: Backing::Ignored,
        l2_cache: 64 << 10,
        ..OpenOptions::default()
    };
    Image::open(storage, options)
}

/// Some places of a disk of `size` bytes, whatever that is.
fn places(size: u64) -> Vec<(u64, usize)> {
    let length = size.min(3000) as usize;
    let mut list = vec![(0, length), (size - length as u64, length), (size / 2, 1)];
    list.extend((0..64).map(|number| (number * K, 1)));
    list.retain(|(at, length)| at + (*length as u64) <= size);
    list
}

/// Opens an image read-only and looks at all of it.
pub(crate) fn look(bytes: &[u8]) {
    let Ok(image) = open(bytes, false, false) else {
        return;
    };
    let size = image.size();
    for (at, length) in places(size) {
        let _ = image.read_at(&mut vec![0; length], at);
        if let Ok((_, run)) = image.extent(at, size - at) {
            assert!(run <= size - at, "a run past the end of the disk");
        }
    }
    assert!(image.write_at(&[1], 0).is_err());
    let _ = image.header().encode();
    let _ = image.read_vm_state(&mut [0; 600], 0);
    for bitmap in image.bitmaps().unwrap_or_default() {
        let _ = image.bitmap_next(&bitmap.name, 0);
    }
    for snapshot in image.snapshots().unwrap_or_default().into_iter().take(4) {
        let inner = MemoryStorage::new(bytes.to_vec());
        let storage = Arc::new(Limited {
            inner,
            protected: true,
        });
        let options = OpenOptions {
            backing: Backing::Ignored,
            snapshot: Some(snapshot.id),
            ..OpenOptions::default()
        };
        if let Ok(view) = Image::open(storage, options) {
            for (at, length) in places(view.size()) {
                let _ = view.read_at(&mut vec![0; length], at);
            }
        }
    }
    let _ = image.check(Repair::Nothing, &mut |_| {});
}

/// Opens an image for writing and does a bit of everything, as far as it lets.
pub(crate) fn write(bytes: &[u8]) {
    let Ok(image) = open(bytes, true, false) else {
        return;
    };
    let size = image.size();
    let cluster = image.geometry().cluster_size();
    for (at, length) in places(size).into_iter().step_by(5) {
        let _ = image.write_at(&vec![7; length], at);
    }
    let _ = image.discard(0, size.min(9 * K));
    let _ = image.write_zeroes(5 * K, (size / 2).min(9 * K), true);
    if size >= cluster {
        let _ = image.write_compressed(&vec![3; cluster as usize], 0);
    }
    let _ = image.flush();
    let new = NewSnapshot {
        name: "new".into(),
        ..NewSnapshot::default()
    };
    let _ = image.create_snapshot(&new);
    let _ = image.write_at(&[9; 700], size.saturating_sub(700));
    // Work grows with the disk, and 64 GiB of bitmap take a while.
    let sizes = image
        .snapshots()
        .unwrap_or_default()
        .into_iter()
        .filter_map(|s| s.disk_size);
    if sizes.max().is_some_and(|size| size < 1 << 30) {
        let _ = image.apply_snapshot("one");
    }
    let _ = image.delete_snapshot("new");
    let _ = image.delete_snapshot("one");
    let _ = image.clear_bitmap("bits");
    let _ = image.add_bitmap("more", 65536);
    let _ = image.resize(20 * K, Preallocation::Off);
    let _ = image.resize(80 * K, Preallocation::Metadata);
    let _ = image.flush();
    let _ = image.close();
}

/// Repairs an image. A repair that says that it is done must be.
pub(crate) fn repair(bytes: &[u8]) {
    let Ok(image) = open(bytes, true, true) else {
        return;
    };
    let Ok(report) = image.check(Repair::All, &mut |_| {}) else {
        return;
    };
    if report.corruptions + report.check_errors > 0 {
        return;
    }
    let mut told = Vec::new();
    let again = image.check(Repair::Nothing, &mut |finding| {
        told.push(finding.text.clone())
    });
    if let Ok(again) = again {
        assert!(again.corruptions == 0, "repaired, and corrupt: {told:?}");
    }
}

/// Everything above.
pub(crate) fn exercise(bytes: &[u8]) {
    look(bytes);
    write(bytes);
    repair(bytes);
}

/// Images with all that the format knows, each of another shape.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let base = CreateOptions {
        size: 50 * K + 512,
        cluster_size: 1024,
        ..CreateOptions::default()
    };
    [
        base.clone(),
        CreateOptions {
            version: 2,
            cluster_size: 512,
            ..base.clone()
        },
        CreateOptions {
            extended_l2: true,
            cluster_size: 16 * K,
            ..base.clone()
        },
        CreateOptions {
            lazy_refcounts: true,
            refcount_bits: 64,
            ..base.clone()
        },
        CreateOptions {
            refcount_bits: 1,
            backing: Some(("b".into(), "raw".into())),
            ..base
        },
    ]
    .iter()
    .map(seed)
    .collect()
}

fn seed(options: &CreateOptions) -> Vec<u8> {
    let memory = Arc::new(MemoryStorage::default());
    let storage: Arc<dyn Storage> = Arc::clone(&memory) as _;
    options.create(&storage).unwrap();
    let open = OpenOptions {
        writable: true,
        backing: Backing::Ignored,
        ..OpenOptions::default()
    };
    let image = Image::open(storage, open).unwrap();
    let cluster = options.cluster_size;
    image.write_at(&[1; 6000], 100).unwrap();
    image
        .write_compressed(&vec![2; cluster as usize], 16 * K)
        .unwrap();
    image.write_zeroes(20 * K, 2 * K, true).unwrap();
    if options.refcount_bits > 1 {
        image.write_vm_state(&[4; 600], 0).unwrap();
        let new = NewSnapshot {
            name: "one".into(),
            vm_state_size: 600,
            ..Default::default()
        };
        image.create_snapshot(&new).unwrap();
    }
    if options.version == 3 {
        image.add_bitmap("bits", 512).unwrap();
    }
    image.write_at(&[5; 2000], 3000).unwrap();
    image.write_at(&[6; 700], 40 * K).unwrap();
    if options.lazy_refcounts {
        image.flush().unwrap();
        image.abandon();
    } else {
        image.close().unwrap();
    }
    memory.to_vec()
}

/// The places of all structures of an image: (offset, bytes per field).
pub(crate) fn fields(bytes: &[u8]) -> Vec<(usize, usize)> {
    let header = Header::read(&MemoryStorage::new(bytes.to_vec())).unwrap();
    let word = |at: usize| {
        bytes
            .get(at..at + 8)
            .map_or(0, |bytes| u64::from_be_bytes(bytes.try_into().unwrap()))
    };
    let cluster = header.geometry.cluster_size() as usize;
    let mut list = vec![
        (0, 4),
        (4, 4),
        (8, 8),
        (16, 4),
        (20, 4),
        (24, 8),
        (32, 4),
        (36, 4),
    ];
    list.extend([
        (40, 8),
        (48, 8),
        (56, 4),
        (60, 4),
        (64, 8),
        (72, 8),
        (80, 8),
        (88, 8),
    ]);
    list.extend([(96, 4), (100, 4), (104, 1)]);
    // Extensions and the backing file's name; the feature table is long and dull.
    list.extend((112..160).step_by(4).map(|at| (at, 4)));
    list.extend((480..cluster.min(620)).step_by(4).map(|at| (at, 4)));
    let run = |start: u64, count: usize| (0..count).map(move |n| (start as usize + n * 8, 8));
    let offset = |word: u64| word & 0x00ff_ffff_ffff_fe00;
    list.extend(run(header.l1_offset, 3));
    for index in 0..2 {
        let table = offset(word(header.l1_offset as usize + index * 8));
        list.extend(run(table, 8));
        list.extend(run(table + 16 * header.geometry.l2_entry_size(), 3));
    }
    list.extend(run(header.refcount_table_offset, 2));
    list.extend(run(word(header.refcount_table_offset as usize), 6));
    if header.snapshot_count > 0 {
        let at = header.snapshots_offset as usize;
        let entry = [
            (0, 8),
            (8, 4),
            (12, 2),
            (14, 2),
            (16, 4),
            (24, 8),
            (32, 4),
            (36, 4),
        ];
        list.extend(entry.map(|(field, width)| (at + field, width)));
        list.extend(run(at as u64 + 40, 4));
        list.extend(run(word(at), 2));
        list.extend(run(offset(word(word(at) as usize)), 4));
    }
    if let Some(extension) = header.extensions.iter().find(|e| e.kind == 0x2385_2875) {
        let directory = u64::from_be_bytes(extension.data[16..24].try_into().unwrap());
        let at = directory as usize;
        let entry = [(0, 8), (8, 4), (12, 4), (16, 1), (17, 1), (18, 2), (20, 4)];
        list.extend(entry.map(|(field, width)| (at + field, width)));
        list.extend(run(word(at), 2));
    }
    list.retain(|(at, width)| at + width <= bytes.len());
    list
}

/// `bytes` with `value` in one field.
pub(crate) fn with(bytes: &[u8], (at, width): (usize, usize), value: u64) -> Vec<u8> {
    let mut new = bytes.to_vec();
    new[at..at + width].copy_from_slice(&value.to_be_bytes()[8 - width..]);
    new
}

/// An image as the fuzzer likes it: the first byte picks a seed, and each ten bytes after it
/// pick a field and its value.
pub(crate) fn patched(data: &[u8]) -> Option<Vec<u8>> {
    let (which, rest) = data.split_first()?;
    let seeds = seeds();
    let mut image = seeds[*which as usize % seeds.len()].clone();
    let fields = fields(&image);
    for patch in rest.chunks_exact(10).take(64) {
        let field = u16::from_be_bytes([patch[0], patch[1]]) as usize % fields.len();
        let value = u64::from_be_bytes(patch[2..].try_into().ok()?);
        image = with(&image, fields[field], value);
    }
    Some(image)
}

/// A seed whose structure at a place is replaced by `data`: the header and its extensions, the
/// snapshot table, the bitmap directory or the compressed data.
pub(crate) fn replaced(part: Part, data: &[u8]) -> Vec<u8> {
    let mut image = seeds().swap_remove(0);
    let header = Header::read(&MemoryStorage::new(image.clone())).unwrap();
    let at = match part {
        Part::Header => 0,
        Part::Extensions => 112,
        Part::Snapshots => header.snapshots_offset as usize,
        Part::Bitmaps => {
            let found = header
                .extensions
                .iter()
                .find(|e| e.kind == 0x2385_2875)
                .unwrap();
            u64::from_be_bytes(found.data[16..24].try_into().unwrap()) as usize
        }
        Part::Compressed => {
            let storage = Arc::new(MemoryStorage::new(image.clone()));
            let options = OpenOptions {
                backing: Backing::Ignored,
                ..OpenOptions::default()
            };
            let view = Image::open(storage, options).unwrap();
            match view.extent(16 * K, 1).unwrap().0 {
                strata_qcow2::Extent::Compressed { offset, .. } => offset as usize,
                other => panic!("{other:?}"),
            }
        }
    };
    let end = (at + data.len()).min(image.len());
    image[at..end].copy_from_slice(&data[..end - at]);
    image
}

/// Structures that [`replaced`] knows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part {
    /// From the magic on.
    Header,
    /// From behind the header's fields on.
    Extensions,
    /// The table of snapshots.
    Snapshots,
    /// The directory of bitmaps.
    Bitmaps,
    /// A compressed cluster.
    Compressed,
}
