//! A disk: the top node of a chain, and the files below it.

#[cfg(feature = "luks")]
mod luks;
mod open;
mod plan;

use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::Arc;

use strata_qcow2::chain::Keys;
use strata_qcow2::{Node, Storage};

use crate::error::Error;
use crate::host_file::HostFile;
use crate::options::{Cache, DiskOptions};

#[cfg(feature = "luks")]
pub use luks::LuksKey;
pub(crate) use plan::{Place, Plan, Run};

/// Bytes of a sector: the unit of virtio-blk, whatever the disk's blocks are.
pub const SECTOR: u64 = 512;

/// One image of the chain.
struct Link {
    node: Arc<Node>,
    /// Where the data lies, as an index into the disk's files; None where the engine can not
    /// reach it by itself (no descriptor, encrypted).
    file: Option<u16>,
    /// The engine may write data of this image in place.
    direct_writes: bool,
    /// No file has this image's data as plain text.
    encrypted: bool,
}

/// An open disk.
///
/// Reads and writes go through a device's queues; what is here opens, describes and resizes it.
pub struct Disk {
    /// The top image first.
    links: Vec<Link>,
    /// The files that engines submit to, in the order of their indices.
    files: Vec<Arc<HostFile>>,
    read_only: bool,
    cache: Cache,
    /// What offsets and lengths of requests must be multiples of.
    alignment: u64,
    name: String,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("name", &self.name)
            .field("size", &self.size())
            .field("images", &self.links.len())
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Opens a disk with all that it stands on, and locks every file of it: the first for
    /// writing, unless the disk is read-only, the others for reading.
    ///
    /// # Errors
    /// [`Error::Open`], [`Error::Locked`], [`Error::NotQcow2`], [`Error::Image`];
    /// [`Error::BackingNotAllowed`], [`Error::BackingMissing`], [`Error::BackingFormat`],
    /// [`Error::Depth`] for what stands below; [`Error::ProbeWithBacking`]; [`Error::KeyNeeded`] for
    /// an encrypted file.
    pub fn open(options: &DiskOptions) -> Result<Self, Error> {
        open::open(options, None)
    }

    /// The same for a disk with encrypted files, whose keys `keys` finds by their paths. Requests
    /// for their data are served by threads, not by the ring alone.
    ///
    /// # Errors
    /// As [`Disk::open`]; [`Error::Image`] for a file whose key does not fit.
    pub fn open_with_keys(options: &DiskOptions, keys: Keys) -> Result<Self, Error> {
        open::open(options, Some(keys))
    }

    /// A disk of nodes that are open already, without locks: for tests, and for disks that are no
    /// files. `name` stands in the log.
    ///
    /// # Errors
    /// [`Error::Invalid`] for more than 1000 files.
    pub fn from_node(node: Arc<Node>, name: &str, read_only: bool) -> Result<Self, Error> {
        let mut files = Vec::new();
        let mut links = Vec::new();
        let mut next = Some(node);
        while let Some(node) = next {
            next = node.backing();
            let file = HostFile::new(Arc::clone(data_of(&node)), Path::new(name), None);
            links.push(Link::new(node, Arc::new(file), &mut files, false));
        }
        Self::from_links(links, files, name.to_owned(), read_only, Cache::Writeback)
    }

    fn from_links(
        links: Vec<Link>,
        files: Vec<Arc<HostFile>>,
        name: String,
        read_only: bool,
        cache: Cache,
    ) -> Result<Self, Error> {
        if links.is_empty() || files.len() > 1000 {
            return Err(Error::Invalid(format!(
                "the disk {name} has too many files"
            )));
        }
        let alignments = files.iter().map(|file| file.alignment() as u64);
        let alignment = alignments.max().unwrap_or(1).max(SECTOR);
        Ok(Self {
            links,
            files,
            read_only,
            cache,
            alignment,
            name,
        })
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.top().size()
    }

    /// Whether the guest may not write.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The cache mode.
    pub fn cache(&self) -> Cache {
        self.cache
    }

    /// What offsets and lengths of requests must be multiples of, in bytes: 512, or what
    /// O_DIRECT asks for.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The best length of a request in bytes: the top image's cluster, or 0 if any is as good.
    pub fn cluster_size(&self) -> u64 {
        let image = self.top().as_qcow2();
        image.map_or(0, |image| image.geometry().cluster_size())
    }

    /// The images of the chain, the top one first.
    pub fn nodes(&self) -> impl Iterator<Item = &Arc<Node>> {
        self.links.iter().map(|link| &link.node)
    }

    /// Memory that cached metadata of all images takes, in bytes.
    pub fn cache_memory(&self) -> u64 {
        let images = self.links.iter().filter_map(|link| link.node.as_qcow2());
        images.map(strata_qcow2::Image::cache_memory).sum()
    }

    /// Whether a file of the chain is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.links.iter().any(|link| link.encrypted)
    }

    /// Changes the size in bytes; a multiple of 512. A device that shows the disk must be told.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another size or a read-only disk, [`Error::Image`].
    pub fn resize(&self, size: u64) -> Result<(), Error> {
        if self.read_only || !size.is_multiple_of(SECTOR) {
            let name = &self.name;
            return Err(Error::Invalid(format!(
                "the disk {name} can not get a size of {size} bytes: it must be a multiple of \
                 512, and the disk must not be read-only"
            )));
        }
        self.top()
            .resize(size, strata_qcow2::Preallocation::Off)
            .map_err(|source| self.image_error(source))
    }

    /// Makes everything written durable.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn flush(&self) -> Result<(), Error> {
        self.top().flush().map_err(|e| self.image_error(e))
    }

    /// Flushes and marks a qcow2 image as closed. Nothing may be written afterwards.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn close(&self) -> Result<(), Error> {
        match (self.read_only, self.top().as_qcow2()) {
            (true, _) => Ok(()),
            (false, Some(image)) => image.close().map_err(|e| self.image_error(e)),
            (false, None) => self.flush(),
        }
    }

    pub(crate) fn top(&self) -> &Node {
        // `from_links` refuses a disk without links.
        &self.links[0].node
    }

    /// The file of a raw disk that a ring can flush by itself. An image has metadata to write first,
    /// and flushes of the page cache have to know of each other.
    pub(crate) fn plain_file(&self) -> Option<u16> {
        let Node::Raw(_) = &*self.links[0].node else {
            return None;
        };
        let file = self.links[0].file?;
        let cached = self.files.get(usize::from(file))?.is_cached();
        (!cached).then_some(file)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn files(&self) -> &[Arc<HostFile>] {
        &self.files
    }

    /// The descriptors to register with a ring, by file index.
    pub(crate) fn descriptors(&self) -> Vec<RawFd> {
        let fds = self.files.iter().map(|file| file.as_fd());
        fds.map(|fd| fd.map_or(-1, |fd| fd.as_raw_fd())).collect()
    }

    fn image_error(&self, source: strata_qcow2::Error) -> Error {
        Error::Image {
            path: self.name.clone().into(),
            source,
        }
    }
}

/// The storage with the data of a node.
fn data_of(node: &Node) -> &Arc<dyn Storage> {
    match node {
        Node::Qcow2(image) => image.data_storage(),
        Node::Raw(disk) => disk.storage(),
    }
}

impl Link {
    /// `data` is the storage that the node's data lies in, and comes to lie in `files`; `volume` says
    /// that it is the payload of a LUKS file.
    fn new(
        node: Arc<Node>,
        data: Arc<HostFile>,
        files: &mut Vec<Arc<HostFile>>,
        volume: bool,
    ) -> Self {
        let alignment = data.alignment() as u64;
        let image = node.as_qcow2();
        let encrypted = volume || image.is_some_and(|image| image.is_encrypted());
        let file = (!encrypted && data.as_fd().is_some()).then_some(files.len() as u16);
        // An allocating write that O_DIRECT would refuse is widened to aligned blocks by the
        // storage, which reads and rewrites what lies beside it. That must be no data which an
        // engine writes at the same time without the storage knowing.
        let direct_writes = image.is_none_or(|image| {
            let unit = image.geometry().subcluster_size();
            unit.is_multiple_of(alignment)
        });
        files.push(data);
        Self {
            node,
            file,
            direct_writes,
            encrypted,
        }
    }
}
