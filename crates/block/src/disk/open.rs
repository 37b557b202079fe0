//! Opening a chain: every file is locked before anything in it is believed.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strata_qcow2::chain::{self, FileFormat, Keys, MAX_DEPTH};
use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{
    Backing, Error as ImageError, Header, Image, Node, OpenOptions, RawDisk, Unlock,
};

use super::{Disk, Link};
use crate::error::Error;
use crate::host_file::HostFile;
use crate::lock::{self, Access};
use crate::options::{Cache, DiskOptions, Format};

/// A file of the chain before it is opened as an image.
struct Part {
    path: PathBuf,
    file: Arc<HostFile>,
    data: Option<Arc<HostFile>>,
    format: FileFormat,
}

/// The file below, and its format if the image says one.
type Below = Option<(PathBuf, Option<FileFormat>)>;

pub(super) fn open(options: &DiskOptions, keys: Option<Keys>) -> Result<Disk, Error> {
    let path = &options.path;
    if options.format == Format::Probe && options.backing {
        return Err(Error::ProbeWithBacking { path: path.clone() });
    }
    let opener = Opener {
        options,
        access: if options.read_only {
            Access::Read
        } else {
            Access::Write
        },
    };
    let mut parts: Vec<Part> = Vec::new();
    let first = opener
        .file(path, opener.access)
        .map_err(|e| e.first(path))?;
    let format = opener.first_format(path, &first)?;
    let mut next = Some((path.clone(), first, format));
    while let Some((at, file, format)) = next.take() {
        let writable = parts.is_empty() && !options.read_only;
        let (part, below) = opener.part(at, file, format, writable)?;
        parts.push(part);
        if let Some((backing, format)) = below {
            let above = &parts[parts.len() - 1].path;
            if parts.len() >= MAX_DEPTH || parts.iter().any(|part| same(&part.path, &backing)) {
                let (path, limit) = (path.clone(), MAX_DEPTH);
                return Err(Error::Depth { path, limit });
            }
            let format = format.ok_or_else(|| Error::BackingFormat {
                path: above.clone(),
            })?;
            let file = opener
                .file(&backing, Access::Read)
                .map_err(|e| e.below(above, &backing))?;
            next = Some((backing, file, format));
        }
    }
    assemble(parts, options, keys.as_ref())
}

/// Opens the images from the lowest to the first.
fn assemble(
    mut parts: Vec<Part>,
    options: &DiskOptions,
    keys: Option<&Keys>,
) -> Result<Disk, Error> {
    let mut nodes: Vec<(Arc<Node>, Arc<HostFile>, bool)> = Vec::new();
    while let Some(part) = parts.pop() {
        let writable = parts.is_empty() && !options.read_only;
        let below = nodes.last().map(|(node, ..)| Arc::clone(node));
        let data = part.data.as_ref().unwrap_or(&part.file);
        let mut data = Arc::clone(data);
        let (path, volume) = (part.path.clone(), part.format == FileFormat::Luks);
        let key = keys.and_then(|keys| keys(&path));
        let locked = key.is_none();
        let node = node(part, below, writable, key).map_err(|source| match source {
            ImageError::Encryption(_) if locked => Error::KeyNeeded { path: path.clone() },
            source => Error::Image {
                path: path.clone(),
                source,
            },
        })?;
        if let (Node::Raw(disk), true) = (&node, volume) {
            // No engine may read the ciphertext in the file as if it were the disk's data.
            data = Arc::new(HostFile::new(Arc::clone(disk.storage()), &path, None));
        }
        nodes.push((Arc::new(node), data, volume));
    }
    let mut files = Vec::new();
    let links = nodes
        .into_iter()
        .rev()
        .map(|(node, data, volume)| Link::new(node, data, &mut files, volume))
        .collect();
    let name = options.path.display().to_string();
    Disk::from_links(links, files, name, options.read_only, options.cache)
}

fn node(
    part: Part,
    below: Option<Arc<Node>>,
    writable: bool,
    key: Option<Arc<dyn Unlock>>,
) -> Result<Node, ImageError> {
    match part.format {
        FileFormat::Raw => return RawDisk::new(part.file).map(Node::Raw),
        FileFormat::Luks => return chain::open_volume(part.file, key).map(Node::Raw),
        FileFormat::Qcow2 => {}
    }
    let options = OpenOptions {
        writable,
        backing: below.map_or(Backing::Closed, Backing::Node),
        data_file: part.data.map(|data| data as _),
        unlock: key,
        ..OpenOptions::default()
    };
    Image::open(part.file, options).map(Node::Qcow2)
}

/// Why a file could not be had, before it is known whose file it is.
enum Refused {
    Locked,
    Open(io::Error),
}

impl Refused {
    /// The disk's first file.
    fn first(self, path: &Path) -> Error {
        let path = path.to_path_buf();
        match self {
            Self::Locked => Error::Locked { path },
            Self::Open(source) => Error::Open { path, source },
        }
    }

    /// A file that the image at `above` stands on.
    fn below(self, above: &Path, path: &Path) -> Error {
        match self {
            Self::Locked => Error::Locked {
                path: path.to_path_buf(),
            },
            Self::Open(source) => Error::BackingMissing {
                path: above.to_path_buf(),
                backing: path.to_path_buf(),
                source,
            },
        }
    }
}

struct Opener<'a> {
    options: &'a DiskOptions,
    access: Access,
}

impl Opener<'_> {
    /// Locks and opens one file.
    fn file(&self, path: &Path, access: Access) -> Result<Arc<HostFile>, Refused> {
        // The lock has a description of its own. A ring that is closed gives its files back some
        // time later, and a lock on the same description would last until then, even after the
        // end of the process.
        let lock = File::open(path).map_err(Refused::Open)?;
        let options = FileOptions {
            write: access == Access::Write,
            create: false,
            direct: self.options.cache == Cache::Direct,
        };
        let storage = FileStorage::open(path, options).map_err(Refused::Open)?;
        if !lock::lock(&lock, access).map_err(Refused::Open)? {
            return Err(Refused::Locked);
        }
        if identity(&lock).map_err(Refused::Open)?
            != identity(storage.file()).map_err(Refused::Open)?
        {
            let moved = io::Error::other("another file took its place meanwhile");
            return Err(Refused::Open(moved));
        }
        let storage = match self.options.cache {
            Cache::Unsafe => storage.without_flush(),
            Cache::Direct | Cache::Writeback => storage,
        };
        Ok(Arc::new(HostFile::new(Arc::new(storage), path, Some(lock))))
    }

    fn first_format(&self, path: &Path, file: &HostFile) -> Result<FileFormat, Error> {
        match self.options.format {
            Format::Raw => Ok(FileFormat::Raw),
            Format::Qcow2 => Ok(FileFormat::Qcow2),
            Format::Luks => Ok(FileFormat::Luks),
            Format::Probe => {
                let found = FileFormat::probe(file).map_err(|source| Error::Image {
                    path: path.to_path_buf(),
                    source,
                })?;
                if found == FileFormat::Raw {
                    let path = path.display();
                    log::warn!(
                        "the disk image {path} looks raw: give its format, or a guest may make \
                         it look like another one"
                    );
                }
                Ok(found)
            }
        }
    }

    /// Reads what an image says of the files that it needs.
    fn part(
        &self,
        path: PathBuf,
        file: Arc<HostFile>,
        format: FileFormat,
        writable: bool,
    ) -> Result<(Part, Below), Error> {
        let mut part = Part {
            path,
            file,
            data: None,
            format,
        };
        if format != FileFormat::Qcow2 {
            return Ok((part, None));
        }
        let header = Header::read(&*part.file).map_err(|source| match source {
            ImageError::NotQcow2 => Error::NotQcow2 {
                path: part.path.clone(),
            },
            source => part.error(source),
        })?;
        if header.geometry.data_file {
            let name = header.data_file_name().unwrap_or_default();
            let path = self.follow(&part, &name)?;
            let access = if writable {
                Access::Write
            } else {
                Access::Read
            };
            let data = self.file(&path, access);
            part.data = Some(data.map_err(|e| e.below(&part.path, &path))?);
        }
        let below = match &header.backing_file {
            Some(name) if !name.is_empty() => {
                let path = self.follow(&part, name)?;
                let format = header.backing_format().filter(|name| !name.is_empty());
                let format = format.map(|name| FileFormat::from_name(&name));
                let format = format.transpose().map_err(|e| part.error(e))?;
                Some((path, format))
            }
            _ => None,
        };
        Ok((part, below))
    }

    /// The path that a name inside of an image means, if it may be followed.
    fn follow(&self, part: &Part, name: &str) -> Result<PathBuf, Error> {
        if !self.options.backing || name.is_empty() {
            return Err(Error::BackingNotAllowed {
                path: part.path.clone(),
                name: name.to_owned(),
            });
        }
        chain::beside(&part.path, name).map_err(|source| part.error(source))
    }
}

impl Part {
    fn error(&self, source: ImageError) -> Error {
        Error::Image {
            path: self.path.clone(),
            source,
        }
    }
}

/// Whether two names are of one file. One that can not be looked up is not open yet.
fn same(one: &Path, other: &Path) -> bool {
    let id = |path| std::fs::metadata(path).map(|found| (found.dev(), found.ino()));
    match (id(one), id(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

/// What tells one file from another.
fn identity(file: &File) -> io::Result<(u64, u64)> {
    file.metadata().map(|found| (found.dev(), found.ino()))
}
