//! The header: fixed fields, extensions and the backing file name, all in the first cluster.

use super::bytes::{get_u32, get_u64};
use super::extension::{self, CryptoHeader, Extension};
use super::feature::{self, Autoclear, Compatible, Incompatible};
use super::geometry::{
    Geometry, MAX_CRYPTO_BYTES, MAX_L1_BYTES, MAX_REFCOUNT_TABLE_BYTES, MAX_SNAPSHOTS,
};
use crate::error::{Error, Result};

pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// Bytes of a version 2 header.
const V2_LENGTH: usize = 72;
/// Bytes of a version 3 header up to the refcount order and its own length.
const V3_LENGTH: usize = 104;
/// Bytes of the header that this crate writes, with the compression type.
const OUR_LENGTH: usize = 112;
/// The longest backing file name.
pub(crate) const MAX_BACKING_NAME: usize = 1023;

/// The method of encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptMethod {
    /// Plain data.
    None,
    /// The old AES method, which this crate refuses to read or write.
    Aes,
    /// A LUKS payload.
    Luks,
}

/// The method of compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CompressionType {
    /// Raw deflate with a window of 4 KiB.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

/// A decoded header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    /// The image's shape.
    pub geometry: Geometry,
    /// Size of the disk in bytes.
    pub size: u64,
    /// Encryption.
    pub crypt_method: CryptMethod,
    /// Entries of the active L1 table.
    pub l1_size: u32,
    /// Offset of the active L1 table.
    pub l1_offset: u64,
    /// Offset of the refcount table.
    pub refcount_table_offset: u64,
    /// Clusters of the refcount table.
    pub refcount_table_clusters: u32,
    /// Number of snapshots.
    pub snapshot_count: u32,
    /// Offset of the snapshot table.
    pub snapshots_offset: u64,
    /// Incompatible features.
    pub incompatible: Incompatible,
    /// Compatible features.
    pub compatible: Compatible,
    /// Autoclear features.
    pub autoclear: Autoclear,
    /// Compression of compressed clusters.
    pub compression: CompressionType,
    /// Header extensions in their order.
    pub extensions: Vec<Extension>,
    /// The backing file's name.
    pub backing_file: Option<String>,
    /// Where the backing file's name lies, unless the extensions need the place; 0 for right
    /// behind them.
    pub(crate) name_offset: usize,
    /// Header bytes beyond those that this crate knows.
    pub(crate) unknown_fields: Vec<u8>,
}

impl Header {
    /// Bytes that [`Header::decode`] wants to see: the first cluster, whose size is at
    /// bytes 20-23 of `start`. None if this is no qcow2 header.
    pub(crate) fn area(start: &[u8]) -> Option<u64> {
        (get_u32(start, 0) == MAGIC).then(|| 1u64 << get_u32(start, 20).clamp(9, 21))
    }

    /// Decodes and validates the header in the first cluster of a file.
    ///
    /// # Errors
    /// [`Error::NotQcow2`], [`Error::UnsupportedVersion`], [`Error::UnknownFeatures`],
    /// [`Error::Unsupported`], [`Error::TooLarge`] or [`Error::Malformed`].
    pub fn decode(cluster: &[u8]) -> Result<Self> {
        if get_u32(cluster, 0) != MAGIC || cluster.len() < V2_LENGTH {
            return Err(Error::NotQcow2);
        }
        let version = get_u32(cluster, 4);
        if !(2..=3).contains(&version) {
            return Err(Error::UnsupportedVersion(version));
        }
        let v3 = version == 3;
        let cluster_bits = get_u32(cluster, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(Error::Unsupported(format!(
                "Unsupported cluster size: 2^{cluster_bits}"
            )));
        }
        let length = if v3 {
            get_u32(cluster, 100) as usize
        } else {
            V2_LENGTH
        };
        if v3 && length < V3_LENGTH {
            return Err(Error::malformed("header", 100, "qcow2 header too short"));
        }
        if length > cluster.len() || length > 1 << cluster_bits {
            return Err(Error::malformed(
                "header",
                100,
                "qcow2 header exceeds cluster size",
            ));
        }
        let v3_bits = |at| if v3 { feature::bits_at(cluster, at) } else { 0 };
        let incompatible = Incompatible(v3_bits(72));
        let backing_offset = get_u64(cluster, 8);
        let area_end = if backing_offset == 0 {
            cluster.len()
        } else {
            usize::try_from(backing_offset).unwrap_or(usize::MAX)
        };
        if area_end > cluster.len() || area_end < length {
            return Err(Error::malformed("header", 8, "Invalid backing file offset"));
        }
        let extensions = extension::decode(&cluster[length..area_end], length as u64)?;
        if incompatible.unknown() != 0 {
            let table = extension::find(&extensions, extension::FEATURE_NAMES);
            let names = feature::name_unknown(table, incompatible.unknown());
            return Err(Error::UnknownFeatures(names));
        }
        let geometry = Geometry::new(
            cluster_bits,
            if v3 { get_u32(cluster, 96) } else { 4 },
            incompatible.has(Incompatible::EXTENDED_L2),
            incompatible.has(Incompatible::DATA_FILE),
        )?;
        let header = Self {
            version,
            geometry,
            size: get_u64(cluster, 24),
            crypt_method: crypt_method(get_u32(cluster, 32))?,
            l1_size: get_u32(cluster, 36),
            l1_offset: get_u64(cluster, 40),
            refcount_table_offset: get_u64(cluster, 48),
            refcount_table_clusters: get_u32(cluster, 56),
            snapshot_count: get_u32(cluster, 60),
            snapshots_offset: get_u64(cluster, 64),
            incompatible,
            compatible: Compatible(v3_bits(80)),
            autoclear: Autoclear(v3_bits(88)),
            compression: compression(incompatible, cluster, length)?,
            backing_file: backing_name(cluster, backing_offset)?,
            name_offset: if backing_offset == 0 { 0 } else { area_end },
            unknown_fields: cluster[length.min(OUR_LENGTH)..length].to_vec(),
            extensions,
        };
        header.validate()?;
        Ok(header)
    }

    /// Only a repair goes on with more snapshots than there may be.
    pub(crate) fn refuse_too_many_snapshots(&self) -> Result<()> {
        if self.snapshot_count > MAX_SNAPSHOTS {
            return Err(Error::TooLarge {
                what: "number of snapshots",
                value: u64::from(self.snapshot_count),
                limit: u64::from(MAX_SNAPSHOTS),
            });
        }
        Ok(())
    }

    fn validate(&self) -> Result<()> {
        let geometry = &self.geometry;
        let table = |structure, field, offset: u64, bytes: u64, limit| {
            if bytes > limit {
                return Err(Error::TooLarge {
                    what: structure,
                    value: bytes,
                    limit,
                });
            }
            let ends = offset
                .checked_add(bytes)
                .is_some_and(|end| end <= i64::MAX as u64);
            if geometry.in_cluster(offset) != 0 || !ends {
                return Err(Error::malformed(structure, field, "invalid offset"));
            }
            Ok(())
        };
        table(
            "active L1 table",
            40,
            self.l1_offset,
            u64::from(self.l1_size) * 8,
            MAX_L1_BYTES,
        )?;
        if self.refcount_table_clusters == 0 {
            return Err(Error::malformed(
                "header",
                56,
                "Image does not contain a reference count table",
            ));
        }
        table(
            "refcount table",
            48,
            self.refcount_table_offset,
            u64::from(self.refcount_table_clusters) << geometry.cluster_bits,
            MAX_REFCOUNT_TABLE_BYTES,
        )?;
        table("snapshot table", 64, self.snapshots_offset, 0, 0)?;
        if let Some(CryptoHeader { offset, length }) = self.crypto_header() {
            table(
                "encryption header",
                offset,
                offset,
                length,
                MAX_CRYPTO_BYTES,
            )?;
        }
        if geometry.l1_entries(self.size) > MAX_L1_BYTES / 8 {
            return Err(Error::TooLarge {
                what: "image size",
                value: self.size,
                limit: geometry.max_size(),
            });
        }
        if u64::from(self.l1_size) < geometry.l1_entries(self.size) {
            return Err(Error::malformed(
                "active L1 table",
                36,
                "L1 table is too small",
            ));
        }
        Ok(())
    }

    /// Encodes the header, its extensions and the backing file's name: what the first cluster
    /// starts with.
    ///
    /// # Errors
    /// [`Error::TooLarge`] if it does not fit a cluster.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let extensions = extension::encode(&self.extensions);
        let fields = if self.version == 2 {
            V2_LENGTH
        } else {
            OUR_LENGTH
        };
        let length = fields + self.unknown_fields.len();
        let name = self.backing_file.as_deref().unwrap_or_default().as_bytes();
        let name_at = self.name_offset.max(length + extensions.len());
        let total = if name.is_empty() {
            length + extensions.len()
        } else {
            name_at + name.len()
        };
        if total as u64 > self.geometry.cluster_size() {
            return Err(Error::TooLarge {
                what: "header",
                value: total as u64,
                limit: self.geometry.cluster_size(),
            });
        }
        let mut bytes = vec![0; total];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC.to_be_bytes());
        put(4, &self.version.to_be_bytes());
        if !name.is_empty() {
            put(8, &(name_at as u64).to_be_bytes());
            put(16, &(name.len() as u32).to_be_bytes());
        }
        put(20, &self.geometry.cluster_bits.to_be_bytes());
        put(24, &self.size.to_be_bytes());
        put(32, &(self.crypt_method as u32).to_be_bytes());
        put(36, &self.l1_size.to_be_bytes());
        put(40, &self.l1_offset.to_be_bytes());
        put(48, &self.refcount_table_offset.to_be_bytes());
        put(56, &self.refcount_table_clusters.to_be_bytes());
        put(60, &self.snapshot_count.to_be_bytes());
        put(64, &self.snapshots_offset.to_be_bytes());
        if self.version == 3 {
            put(72, &self.incompatible.0.to_be_bytes());
            put(80, &self.compatible.0.to_be_bytes());
            put(88, &self.autoclear.0.to_be_bytes());
            put(96, &self.geometry.refcount_order.to_be_bytes());
            put(100, &(length as u32).to_be_bytes());
            put(104, &[self.compression as u8]);
            put(fields, &self.unknown_fields);
        }
        put(length, &extensions);
        if !name.is_empty() {
            put(name_at, name);
        }
        Ok(bytes)
    }

    /// The backing file's format as the image names it.
    pub fn backing_format(&self) -> Option<String> {
        self.text(extension::BACKING_FORMAT)
    }

    /// The external data file's name.
    pub fn data_file_name(&self) -> Option<String> {
        self.text(extension::DATA_FILE)
    }

    /// Where the LUKS header lies.
    pub fn crypto_header(&self) -> Option<CryptoHeader> {
        extension::find(&self.extensions, extension::CRYPTO).and_then(CryptoHeader::decode)
    }

    fn text(&self, kind: u32) -> Option<String> {
        extension::find(&self.extensions, kind)
            .map(|data| String::from_utf8_lossy(data).into_owned())
    }
}

fn crypt_method(number: u32) -> Result<CryptMethod> {
    match number {
        0 => Ok(CryptMethod::None),
        1 => Ok(CryptMethod::Aes),
        2 => Ok(CryptMethod::Luks),
        other => Err(Error::Unsupported(format!(
            "Unsupported encryption method {other}"
        ))),
    }
}

fn compression(features: Incompatible, cluster: &[u8], length: usize) -> Result<CompressionType> {
    let number = if length > 104 { cluster[104] } else { 0 };
    let marked = features.has(Incompatible::COMPRESSION);
    match (number, marked) {
        (0, false) => Ok(CompressionType::Zlib),
        (1, true) => Ok(CompressionType::Zstd),
        (0, true) | (1, false) => Err(Error::malformed(
            "header",
            104,
            "compression type incompatible feature bit must match the compression type",
        )),
        (other, _) => Err(Error::Unsupported(format!(
            "unknown compression type {other}"
        ))),
    }
}

fn backing_name(cluster: &[u8], offset: u64) -> Result<Option<String>> {
    if offset == 0 {
        return Ok(None);
    }
    let length = get_u32(cluster, 16) as usize;
    if length > MAX_BACKING_NAME {
        return Err(Error::TooLarge {
            what: "backing file name",
            value: length as u64,
            limit: MAX_BACKING_NAME as u64,
        });
    }
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let name = start
        .checked_add(length)
        .and_then(|end| cluster.get(start..end));
    let Some(name) = name else {
        return Err(Error::malformed(
            "backing file name",
            offset,
            "exceeds the first cluster",
        ));
    };
    Ok(Some(String::from_utf8_lossy(name).into_owned()))
}
