//! New images.

use std::sync::Arc;

use crate::crypt::{Format, Window};
use crate::error::{Error, Result};
use crate::format::extension::{self, Extension};
use crate::format::geometry::MAX_L1_BYTES;
use crate::format::header::MAX_BACKING_NAME;
use crate::format::{
    Autoclear, Compatible, CompressionType, CryptMethod, CryptoHeader, Geometry, Header,
    Incompatible, bytes, feature,
};
use crate::image::{Backing, Image, OpenOptions};
use crate::refcount::width;
use crate::storage::Storage;

/// How much of a disk gets its space when it is created or grown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Preallocation {
    /// None.
    #[default]
    Off,
    /// The tables name clusters, which take no space on the host yet.
    Metadata,
    /// The host reserves the space too.
    Falloc,
    /// Zeroes are written all over.
    Full,
}

/// What a new image shall be.
#[derive(Clone)]
pub struct CreateOptions {
    /// Size of the disk in bytes, rounded up to sectors of 512.
    pub size: u64,
    /// 2 ("0.10") or 3 ("1.1").
    pub version: u32,
    /// Cluster size in bytes: a power of two from 512 to 2 MiB.
    pub cluster_size: u64,
    /// Width of refcounts: a power of two from 1 to 64.
    pub refcount_bits: u32,
    /// Refcount updates may wait while the image is marked dirty.
    pub lazy_refcounts: bool,
    /// L2 entries with subclusters.
    pub extended_l2: bool,
    /// Method of compressed clusters.
    pub compression: CompressionType,
    /// The backing file's name as overlays store it, and its format.
    pub backing: Option<(String, String)>,
    /// The external data file's name and the file itself.
    pub data_file: Option<(String, Arc<dyn Storage>)>,
    /// Keep the external data file readable as a raw image.
    pub data_file_raw: bool,
    /// Encrypts the data.
    pub luks: Option<Arc<dyn Format>>,
    /// Space to reserve at once.
    pub preallocation: Preallocation,
}

impl Default for CreateOptions {
    fn default() -> Self {
        Self {
            size: 0,
            version: 3,
            cluster_size: 64 << 10,
            refcount_bits: 16,
            lazy_refcounts: false,
            extended_l2: false,
            compression: CompressionType::Zlib,
            backing: None,
            data_file: None,
            data_file_raw: false,
            luks: None,
            preallocation: Preallocation::Off,
        }
    }
}

/// Where the structures of a new image lie, in clusters from the start.
struct Layout {
    table: u64,
    blocks: u64,
    l1: u64,
    crypto: u64,
}

impl Layout {
    fn new(geometry: &Geometry, l1_entries: u64, crypto_bytes: u64) -> Self {
        let l1 = geometry.clusters(l1_entries * 8);
        let crypto = geometry.clusters(crypto_bytes);
        let mut layout = Self {
            table: 1,
            blocks: 1,
            l1,
            crypto,
        };
        loop {
            let blocks = layout.end().div_ceil(1 << geometry.refcount_block_bits());
            let table = geometry.clusters(blocks * 8).max(1);
            if (blocks, table) == (layout.blocks, layout.table) {
                return layout;
            }
            layout.blocks = blocks;
            layout.table = table;
        }
    }

    fn l1_start(&self) -> u64 {
        1 + self.table + self.blocks
    }

    fn crypto_start(&self) -> u64 {
        self.l1_start() + self.l1
    }

    fn end(&self) -> u64 {
        self.crypto_start() + self.crypto
    }
}

impl CreateOptions {
    /// Makes a new image in `file`, which is emptied first.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unsupported`] or [`Error::TooLarge`] for options that can
    /// not be, before anything is written; [`Error::Io`].
    pub fn create(&self, file: &Arc<dyn Storage>) -> Result<()> {
        let geometry = self.geometry()?;
        let size = self.size.checked_next_multiple_of(512).unwrap_or(u64::MAX);
        let entries = geometry.l1_entries(size);
        if entries > MAX_L1_BYTES / 8 || size > i64::MAX as u64 {
            return Err(Error::TooLarge {
                what: "Image size",
                value: size,
                limit: geometry.max_size(),
            });
        }
        let crypto_bytes = self.luks.as_ref().map_or(0, |luks| luks.header_length());
        let layout = Layout::new(&geometry, entries, crypto_bytes);
        let header = self.header(geometry, size, &layout, crypto_bytes)?;
        let encoded = header.encode()?;

        let bits = geometry.cluster_bits;
        if file.grows_with_zeroes() {
            file.set_len(0).map_err(|source| Error::Io {
                action: "truncate to",
                offset: 0,
                length: 0,
                source,
            })?;
        }
        let mut block = vec![0; geometry.cluster_size() as usize];
        for number in 0..layout.blocks {
            block.fill(0);
            let first = number << geometry.refcount_block_bits();
            let used = layout
                .end()
                .saturating_sub(first)
                .min(1 << geometry.refcount_block_bits());
            for index in 0..used {
                width::set(geometry.refcount_order, &mut block, index as usize, 1);
            }
            file.write_at(&block, (1 + layout.table + number) << bits)?;
        }
        let mut table =
            bytes::from_words((0..layout.blocks).map(|n| (1 + layout.table + n) << bits));
        table.resize((layout.table << bits) as usize, 0);
        file.write_at(&table, 1 << bits)?;
        // A file ends with the table, which is how long QEMU makes it too.
        let l1_bytes = match file.grows_with_zeroes() {
            true => entries * 8,
            false => layout.l1 << bits,
        };
        zero(&**file, header.l1_offset, l1_bytes)?;
        if let Some(luks) = &self.luks {
            let start = layout.crypto_start() << bits;
            zero(&**file, start, layout.crypto << bits)?;
            luks.format(&Window {
                storage: &**file,
                start,
                length: crypto_bytes,
            })?;
        }
        let mut first = encoded;
        first.resize(geometry.cluster_size() as usize, 0);
        file.write_at(&first, 0)?;
        file.sync()?;
        self.finish(file, size)
    }

    /// Gives the data file its length and the disk its space.
    fn finish(&self, file: &Arc<dyn Storage>, size: u64) -> Result<()> {
        if let Some((_, data)) = &self.data_file
            && data.size()? < size
        {
            data.set_len(size).map_err(|source| Error::Io {
                action: "grow to",
                offset: size,
                length: 0,
                source,
            })?;
        }
        if self.preallocation == Preallocation::Off {
            return Ok(());
        }
        let image = Image::open(
            Arc::clone(file),
            OpenOptions {
                writable: true,
                backing: Backing::Ignored,
                data_file: self.data_file.as_ref().map(|(_, data)| Arc::clone(data)),
                metadata_only: true,
                ..OpenOptions::default()
            },
        )?;
        image.preallocate(0, size, self.preallocation)?;
        image.close()
    }

    /// The shape that the options ask for.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Unsupported`].
    pub fn geometry(&self) -> Result<Geometry> {
        if !self.cluster_size.is_power_of_two() || !(512..=2 << 20).contains(&self.cluster_size) {
            return Err(Error::Invalid(
                "Cluster size must be a power of two between 512 and 2048k".into(),
            ));
        }
        if !self.refcount_bits.is_power_of_two() || self.refcount_bits > 64 {
            return Err(Error::Invalid(
                "Refcount width must be a power of two and may not exceed 64 bits".into(),
            ));
        }
        match self.version {
            3 => {}
            2 => self.check_version_2()?,
            other => return Err(Error::UnsupportedVersion(other)),
        }
        if self.data_file_raw && self.data_file.is_none() {
            return Err(Error::Invalid("data-file-raw requires data-file".into()));
        }
        if self.data_file_raw && self.backing.is_some() {
            return Err(Error::Invalid(
                "Backing file and data-file-raw cannot be used at the same time".into(),
            ));
        }
        if self.backing.is_some() && self.preallocation != Preallocation::Off && !self.extended_l2 {
            return Err(Error::Invalid(
                "Backing file and preallocation can only be used at the same time if extended_l2 \
                 is enabled"
                    .into(),
            ));
        }
        Geometry::new(
            self.cluster_size.trailing_zeros(),
            self.refcount_bits.trailing_zeros(),
            self.extended_l2,
            self.data_file.is_some(),
        )
    }

    fn check_version_2(&self) -> Result<()> {
        let refused = if self.refcount_bits != 16 {
            "Different refcount widths than 16 bits require compatibility level 1.1 or above \
             (use version=v3 or greater)"
        } else if self.lazy_refcounts {
            "Lazy refcounts only supported with compatibility level 1.1 and above (use version=v3 \
             or greater)"
        } else if self.extended_l2 {
            "Extended L2 entries are only supported with compatibility level 1.1 and above (use \
             version=v3 or greater)"
        } else if self.data_file.is_some() {
            "External data files are only supported with compatibility level 1.1 and above (use \
             version=v3 or greater)"
        } else if self.compression != CompressionType::Zlib {
            "Non-zlib compression type is only supported with compatibility level 1.1 and above \
             (use version=v3 or greater)"
        } else {
            return Ok(());
        };
        Err(Error::Invalid(refused.into()))
    }

    fn header(
        &self,
        geometry: Geometry,
        size: u64,
        layout: &Layout,
        crypto_bytes: u64,
    ) -> Result<Header> {
        let bits = geometry.cluster_bits;
        let mut extensions = Vec::new();
        let mut add = |kind, data| extensions.push(Extension { kind, data });
        if let Some((name, format)) = &self.backing {
            if name.len() > MAX_BACKING_NAME {
                return Err(Error::TooLarge {
                    what: "backing file name",
                    value: name.len() as u64,
                    limit: MAX_BACKING_NAME as u64,
                });
            }
            add(extension::BACKING_FORMAT, format.clone().into_bytes());
        }
        if let Some((name, _)) = &self.data_file {
            add(extension::DATA_FILE, name.clone().into_bytes());
        }
        if self.luks.is_some() {
            let offset = layout.crypto_start() << bits;
            add(
                extension::CRYPTO,
                CryptoHeader {
                    offset,
                    length: crypto_bytes,
                }
                .encode(),
            );
        }
        if self.version >= 3 && feature::has_room_for_names(&geometry) {
            add(extension::FEATURE_NAMES, feature::name_table());
        }
        let bit = |set: bool, bit: u64| if set { bit } else { 0 };
        Ok(Header {
            version: self.version,
            geometry,
            size,
            crypt_method: if self.luks.is_some() {
                CryptMethod::Luks
            } else {
                CryptMethod::None
            },
            l1_size: geometry.l1_entries(size) as u32,
            l1_offset: layout.l1_start() << bits,
            refcount_table_offset: 1 << bits,
            refcount_table_clusters: layout.table as u32,
            snapshot_count: 0,
            snapshots_offset: 0,
            incompatible: Incompatible(
                bit(self.data_file.is_some(), Incompatible::DATA_FILE.0)
                    | bit(
                        self.compression != CompressionType::Zlib,
                        Incompatible::COMPRESSION.0,
                    )
                    | bit(self.extended_l2, Incompatible::EXTENDED_L2.0),
            ),
            compatible: Compatible(bit(self.lazy_refcounts, Compatible::LAZY_REFCOUNTS.0)),
            autoclear: Autoclear(bit(self.data_file_raw, Autoclear::DATA_FILE_RAW.0)),
            compression: self.compression,
            extensions,
            backing_file: self.backing.as_ref().map(|(name, _)| name.clone()),
            name_offset: 0,
            unknown_fields: Vec::new(),
        })
    }
}

/// Makes a range of a new image read as zeroes, at no cost for files.
fn zero(file: &dyn Storage, offset: u64, length: u64) -> Result<()> {
    let failed = |action| {
        move |source| Error::Io {
            action,
            offset,
            length,
            source,
        }
    };
    if file.grows_with_zeroes() {
        let end = offset.saturating_add(length);
        if file.size()? < end {
            file.set_len(end).map_err(failed("grow to"))?;
        }
        return Ok(());
    }
    file.write_zeroes(offset, length, false)
        .map_err(failed("zero"))
}
