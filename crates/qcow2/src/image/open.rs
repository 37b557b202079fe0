//! Opening.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};

use super::state::State;
use super::{BackingState, Image};
use crate::bitmap::Tracker;
use crate::cache::cluster_set::ClusterSet;
use crate::cache::epoch::Epochs;
use crate::cache::slices::Slices;
use crate::cache::table::Table;
use crate::check::{Finding, Repair};
use crate::crypt::{Locked, Unlock, Window};
use crate::error::{Error, Result};
use crate::format::{Autoclear, CryptMethod, Header, Incompatible};
use crate::node::Node;
use crate::snapshot;
use crate::storage::Storage;

/// What to do about the backing file that an image names. Names are never followed here; see
/// [`crate::chain`] for that.
#[derive(Clone, Default)]
pub enum Backing {
    /// Reading through to it fails with [`Error::NotAllowed`].
    #[default]
    Closed,
    /// Act as if there were none: unallocated clusters read as zeroes.
    Ignored,
    /// This node, already open.
    Node(Arc<Node>),
}

/// Hears of findings.
pub type FindingSink = Arc<dyn Fn(&Finding) + Send + Sync>;

/// How to open an image.
#[derive(Clone)]
pub struct OpenOptions {
    /// Open for writing too.
    pub writable: bool,
    /// The node below.
    pub backing: Backing,
    /// The external data file, for images that have one.
    pub data_file: Option<Arc<dyn Storage>>,
    /// Opens the LUKS payload of encrypted images.
    pub unlock: Option<Arc<dyn Unlock>>,
    /// Most bytes of L2 tables to keep in memory; more than 4 GiB count as that.
    pub l2_cache: u64,
    /// Open although the corrupt bit is set or the header counts too many snapshots, for checking
    /// and repairing.
    pub allow_corrupt: bool,
    /// Do not repair an image whose dirty bit is set when it is opened for writing.
    pub keep_dirty: bool,
    /// Refuse to write while the tables of a snapshot lie at no valid place and so can not be
    /// protected.
    pub check_inactive_l2: bool,
    /// Put refcount updates off, or not, whatever the header says.
    pub lazy_refcounts: Option<bool>,
    /// Hears what the repair of a dirty image finds, and that an image is marked as corrupt. The
    /// image is locked meanwhile: call nothing on it.
    pub on_finding: Option<FindingSink>,
    /// Show the disk of this snapshot (id or name) instead; for read-only images.
    pub snapshot: Option<String>,
    /// Give clusters that are freed back to the host.
    pub pass_discards: bool,
    /// Open an encrypted image without a key, for its metadata only; data can not be read.
    pub metadata_only: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            writable: false,
            backing: Backing::Closed,
            data_file: None,
            unlock: None,
            l2_cache: 16 << 20,
            allow_corrupt: false,
            keep_dirty: false,
            check_inactive_l2: false,
            lazy_refcounts: None,
            on_finding: None,
            snapshot: None,
            pass_discards: true,
            metadata_only: false,
        }
    }
}

impl Header {
    /// Reads and validates the header of an image.
    ///
    /// # Errors
    /// Those of [`Header::decode`], and [`Error::Io`].
    pub fn read(storage: &dyn Storage) -> Result<Self> {
        let mut start = [0; 512];
        storage.read_at(&mut start, 0)?;
        let area = Header::area(&start).ok_or(Error::NotQcow2)?;
        let mut cluster = vec![0; area as usize];
        storage.read_at(&mut cluster, 0)?;
        Header::decode(&cluster)
    }
}

impl Image {
    /// Opens the image in `file`.
    ///
    /// # Errors
    /// Whatever the header breaks; [`Error::Corrupt`] when a corrupt image is to be written;
    /// [`Error::Encryption`] for an encrypted image without a fitting key.
    pub fn open(file: Arc<dyn Storage>, options: OpenOptions) -> Result<Self> {
        let mut header = Header::read(&*file)?;
        let geometry = header.geometry;
        if !options.allow_corrupt {
            header.refuse_too_many_snapshots()?;
        }
        if let Some(name) = &options.snapshot {
            show_snapshot(&mut header, &*file, name, options.writable)?;
        }
        if header.incompatible.has(Incompatible::CORRUPT)
            && options.writable
            && !options.allow_corrupt
        {
            return Err(Error::Corrupt);
        }
        let data = match (&options.data_file, geometry.data_file) {
            (Some(data), true) => Arc::clone(data),
            (None, false) => Arc::clone(&file),
            (None, true) => {
                return Err(Error::Invalid(
                    "'data-file' is required for this image".into(),
                ));
            }
            (Some(_), false) => {
                return Err(Error::Invalid(
                    "'data-file' can only be set for images with an external data file".into(),
                ));
            }
        };
        let raw_data = header.autoclear.has(Autoclear::DATA_FILE_RAW);
        if raw_data && !geometry.data_file {
            return Err(Error::malformed(
                "header",
                88,
                "data-file-raw without a data file",
            ));
        }
        let cipher = unlock(&header, &*file, &options)?;
        let backing = match (&options.backing, &header.backing_file) {
            (Backing::Node(node), _) => BackingState::Node(Arc::clone(node)),
            (Backing::Closed, Some(name)) => BackingState::Closed(name.clone()),
            _ => BackingState::None,
        };
        let slice_size = geometry.cluster_size().min(4096);
        let needed = geometry
            .clusters(header.size)
            .saturating_mul(geometry.l2_entry_size());
        // Slices fall into sets by chance. Only slots that are used take memory, and with four for
        // each slice no set fills up with dirty ones, which would be flushed to make room.
        let most = needed.saturating_mul(4);
        let cache = options.l2_cache.min(most).max(slice_size * 64);
        let file_end = file.size()?;
        let image = Self {
            l1: Table::new(header.l1_offset, u64::from(header.l1_size)),
            l2: Slices::new(cache, slice_size, geometry.extended_l2),
            slice_size,
            size: AtomicU64::new(header.size),
            epochs: Epochs::default(),
            backing: RwLock::new(backing),
            cipher,
            rewriting: RwLock::new(()),
            compression: header.compression,
            writable: options.writable,
            raw_data,
            geometry,
            file,
            data,
            metadata: ClusterSet::default(),
            tracker: Tracker::default(),
            preallocated: OnceLock::new(),
            lazy_refcounts: options.lazy_refcounts,
            check_inactive_l2: options.check_inactive_l2,
            on_finding: options.on_finding.clone(),
            pass_discards: options.pass_discards,
            ready: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            landed: Condvar::new(),
            flushed: Condvar::new(),
            resizing: RwLock::new(()),
            state: Mutex::new(State::new(header, file_end)),
        };
        let dirty = image.lock().header.incompatible.has(Incompatible::DIRTY);
        if image.writable && dirty && !options.keep_dirty {
            let report = image.check(Repair::All, &mut |finding| {
                if let Some(tell) = &options.on_finding {
                    tell(finding);
                }
            })?;
            if report.corruptions > 0 || report.check_errors > 0 {
                return Err(Error::Corrupt);
            }
        }
        Ok(image)
    }
}

/// Makes the header name a snapshot's table in place of the active one.
fn show_snapshot(
    header: &mut Header,
    file: &dyn Storage,
    name: &str,
    writable: bool,
) -> Result<()> {
    if writable {
        return Err(Error::Invalid(
            "a snapshot can only be opened read-only".into(),
        ));
    }
    let (list, _) = snapshot::read_table(file, header)?;
    let found = snapshot::find(&list, name)?;
    found.check_table(&header.geometry)?;
    let size = found.disk_size.unwrap_or(header.size);
    if header.geometry.l1_entries(size) > u64::from(found.l1_size) {
        let reason = "L1 table is too small";
        return Err(Error::malformed("snapshot", found.l1_offset, reason));
    }
    header.size = size;
    header.l1_offset = found.l1_offset;
    header.l1_size = found.l1_size;
    Ok(())
}

fn unlock(
    header: &Header,
    file: &dyn Storage,
    options: &OpenOptions,
) -> Result<Option<Arc<dyn crate::crypt::Cipher>>> {
    match header.crypt_method {
        CryptMethod::None => Ok(None),
        CryptMethod::Aes => Err(Error::Unsupported(
            "Use of AES-CBC encrypted qcow2 images is no longer supported".into(),
        )),
        CryptMethod::Luks => {
            let place = header.crypto_header().ok_or_else(|| {
                Error::malformed("header", 32, "Missing CRYPTO header for crypt method 2")
            })?;
            if options.metadata_only {
                return Ok(Some(Arc::new(Locked)));
            }
            let unlock = options.unlock.as_ref().ok_or_else(|| {
                Error::Encryption("Parameter 'encrypt.key-secret' is required for cipher".into())
            })?;
            let window = Window {
                storage: file,
                start: place.offset,
                length: place.length,
            };
            let unlocked = unlock.unlock(&window, place.length)?;
            Ok(Some(unlocked.cipher))
        }
    }
}
