//! Opening an image with everything below it, by file name.
//!
//! A name inside an image is the word of whoever made the image: it is followed only where the
//! caller allows it, its format is taken from the image and probed only where the caller asks
//! for it, and a loop or a chain that is too long is an error.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::crypt::Unlock;
use crate::error::{Error, Result};
use crate::format::Header;
use crate::format::header::MAGIC;
use crate::image::{Backing, Image, OpenOptions};
use crate::node::{Node, RawDisk};
use crate::storage::{EncryptedStorage, FileOptions, FileStorage, Storage};

/// Images in the longest chain that is opened.
pub const MAX_DEPTH: usize = 200;

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// qcow2.
    Qcow2,
    /// Raw bytes.
    Raw,
    /// A LUKS volume with raw bytes as its payload.
    Luks,
}

/// The first bytes of a LUKS file (LUKS1 §2.1).
const LUKS_MAGIC: [u8; 6] = *b"LUKS\xba\xbe";

impl FileFormat {
    /// By the name that images and command lines use.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for any other than "qcow2", "raw" and "luks".
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "qcow2" => Ok(Self::Qcow2),
            "raw" | "file" | "host_device" => Ok(Self::Raw),
            "luks" => Ok(Self::Luks),
            other => Err(Error::Unsupported(format!("Unknown driver '{other}'"))),
        }
    }

    /// What the first bytes look like. Never for files that a guest may have written raw.
    pub fn probe(storage: &dyn Storage) -> Result<Self> {
        let mut start = [0; LUKS_MAGIC.len()];
        storage.read_at(&mut start, 0)?;
        Ok(match start {
            LUKS_MAGIC => Self::Luks,
            _ if start.starts_with(&MAGIC.to_be_bytes()) => Self::Qcow2,
            _ => Self::Raw,
        })
    }
}

/// Finds the key of an encrypted file by the path that it is opened at: each file of a chain may
/// have its own. None: there is none for this file, and opening it fails.
pub type Keys = Arc<dyn Fn(&Path) -> Option<Arc<dyn Unlock>> + Send + Sync>;

/// How to open a chain.
#[derive(Clone)]
pub struct ChainOptions {
    /// Format of the first file; None asks for probing it.
    pub format: Option<FileFormat>,
    /// Open the first file for writing.
    pub writable: bool,
    /// Open with O_DIRECT.
    pub direct: bool,
    /// Follow backing file names; else reading through to one fails.
    pub backing: bool,
    /// Open the external data files that images name.
    pub data_file: bool,
    /// Probe backing files of which the overlay does not say the format.
    pub probe_backing: bool,
    /// Where the keys of encrypted images and LUKS files come from.
    pub keys: Option<Keys>,
    /// The rest of what concerns the first image.
    pub image: OpenOptions,
}

impl Default for ChainOptions {
    fn default() -> Self {
        Self {
            format: Some(FileFormat::Qcow2),
            writable: false,
            direct: false,
            backing: true,
            data_file: true,
            probe_backing: false,
            keys: None,
            image: OpenOptions::default(),
        }
    }
}

/// One file of the chain before it is opened as an image.
struct Link {
    path: PathBuf,
    storage: Arc<dyn Storage>,
    data: Option<Arc<dyn Storage>>,
    format: FileFormat,
}

/// Opens the image at `path` and all that it stands on.
///
/// # Errors
/// [`Error::InFile`] around whatever is wrong, with the name of the file it is wrong with.
pub fn open(path: &Path, options: &ChainOptions) -> Result<Arc<Node>> {
    let mut links: Vec<Link> = Vec::new();
    let mut seen = Vec::new();
    let mut next = Some((path.to_path_buf(), options.format));
    while let Some((path, format)) = next {
        let name = path.display().to_string();
        let first = links.is_empty();
        let (link, below) =
            open_link(path, format, first, options, &mut seen).map_err(|e| e.in_file(&name))?;
        links.push(link);
        if links.len() > MAX_DEPTH {
            let reason = format!("the backing chain has more than {MAX_DEPTH} images");
            return Err(Error::Invalid(reason).in_file(name));
        }
        next = below;
    }
    let mut below: Option<Arc<Node>> = None;
    while let Some(link) = links.pop() {
        let name = link.path.display().to_string();
        let node = open_node(link, links.is_empty(), below.take(), options)
            .map_err(|error| error.in_file(name))?;
        below = Some(Arc::new(node));
    }
    below.ok_or_else(|| Error::Invalid("no file to open".into()))
}

type Below = Option<(PathBuf, Option<FileFormat>)>;

fn open_link(
    path: PathBuf,
    format: Option<FileFormat>,
    first: bool,
    options: &ChainOptions,
    seen: &mut Vec<(u64, u64)>,
) -> Result<(Link, Below)> {
    let storage = open_file(&path, first && options.writable, options.direct)?;
    let identity = identity(&path)?;
    if seen.contains(&identity) {
        return Err(Error::Invalid("the backing chain is a loop".into()));
    }
    seen.push(identity);
    let format = match format {
        Some(format) => format,
        None if first || options.probe_backing => FileFormat::probe(&*storage)?,
        None => {
            return Err(Error::Invalid(
                "the overlay does not say the format of its backing file".into(),
            ));
        }
    };
    let mut link = Link {
        path,
        storage,
        data: None,
        format,
    };
    if format != FileFormat::Qcow2 {
        return Ok((link, None));
    }
    let header = Header::read(&*link.storage)?;
    if header.geometry.data_file && !(first && options.image.data_file.is_some()) {
        let name = header.data_file_name().unwrap_or_default();
        if !options.data_file || name.is_empty() {
            return Err(Error::NotAllowed(name));
        }
        let path = beside(&link.path, &name)?;
        let writable = first && options.writable;
        link.data = Some(open_file(&path, writable, options.direct).map_err(|e| e.in_file(name))?);
    }
    let below = match &header.backing_file {
        Some(name) if options.backing && !name.is_empty() => {
            let format = header
                .backing_format()
                .map(|name| FileFormat::from_name(&name));
            Some((beside(&link.path, name)?, format.transpose()?))
        }
        _ => None,
    };
    Ok((link, below))
}

fn open_node(
    link: Link,
    first: bool,
    below: Option<Arc<Node>>,
    options: &ChainOptions,
) -> Result<Node> {
    let key = || options.keys.as_ref().and_then(|keys| keys(&link.path));
    match link.format {
        FileFormat::Raw => return RawDisk::new(link.storage).map(Node::Raw),
        FileFormat::Luks => return open_volume(link.storage, key()).map(Node::Raw),
        FileFormat::Qcow2 => {}
    }
    let base = if first {
        options.image.clone()
    } else {
        OpenOptions::default()
    };
    let image = OpenOptions {
        writable: first && options.writable,
        backing: below.map_or(base.backing, Backing::Node),
        data_file: link.data.or(base.data_file),
        unlock: base.unlock.or_else(key),
        ..base
    };
    Image::open(link.storage, image).map(Node::Qcow2)
}

/// Shows the payload of the LUKS volume in `file` as raw bytes.
///
/// # Errors
/// [`Error::Encryption`] without a key that fits; [`Error::Io`].
pub fn open_volume(file: Arc<dyn Storage>, key: Option<Arc<dyn Unlock>>) -> Result<RawDisk> {
    let key = key.ok_or_else(|| Error::Encryption("there is no key for the LUKS volume".into()))?;
    RawDisk::new(Arc::new(EncryptedStorage::open(file, &*key)?))
}

fn open_file(path: &Path, write: bool, direct: bool) -> Result<Arc<dyn Storage>> {
    let options = FileOptions {
        write,
        create: false,
        direct,
    };
    let file = FileStorage::open(path, options).map_err(|source| Error::Io {
        action: "open",
        offset: 0,
        length: 0,
        source,
    })?;
    Ok(Arc::new(file))
}

/// Two names are of one file if they have one device and inode.
fn identity(path: &Path) -> Result<(u64, u64)> {
    let found = std::fs::metadata(path).map_err(|source| Error::Io {
        action: "look up",
        offset: 0,
        length: 0,
        source,
    })?;
    Ok((found.dev(), found.ino()))
}

/// The path that a name inside of the image at `image` means: relative to the image.
///
/// # Errors
/// [`Error::NotAllowed`] for names that are no plain file names ("json:...", "nbd://...").
pub fn beside(image: &Path, name: &str) -> Result<PathBuf> {
    let plain = name.strip_prefix("file:").unwrap_or(name);
    let before_slash = plain.split('/').next().unwrap_or_default();
    if before_slash.contains(':') {
        return Err(Error::NotAllowed(name.into()));
    }
    let directory = image.parent().unwrap_or(Path::new(""));
    Ok(directory.join(plain))
}
