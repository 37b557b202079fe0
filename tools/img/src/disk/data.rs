//! Requests on an open disk.

use std::sync::Arc;

use strata_qcow2::{
    Error, Extent, Image, Node, OpenOptions, Preallocation, RawDisk, Result, Snapshot, Storage,
};

use super::blkdebug::Rules;
use super::filename::{full_backing_name, has_protocol};
use super::probe::{PROBED, Probed, probe};
use super::status::{self, Status};
use super::{Format, Options};

/// A layer of the chain, as the user knows it.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its file name as it was opened.
    pub name: String,
    /// Its format.
    pub format: Format,
}

/// An open disk: the top of a chain, and what is known of it.
pub struct Disk {
    pub(super) node: Arc<Node>,
    /// The top's format.
    pub format: Format,
    /// The top's name: its file name, or a `json:` text that opens the same.
    pub name: String,
    /// Name of the file below the top's format.
    pub file_name: String,
    /// The driver of that file.
    pub file_driver: &'static str,
    /// The bytes of that file.
    pub file: Arc<dyn Storage>,
    /// Name of the external data file.
    pub data_file_name: Option<String>,
    /// The whole chain, the top first.
    pub layers: Vec<Layer>,
    /// What it was opened with.
    pub options: Options,
    pub(super) flags: super::Flags,
    pub(super) rules: Option<Rules>,
    /// How the top was opened as a qcow2 image.
    pub(super) image_options: Option<OpenOptions>,
    /// The driver `compress` is on top: what is written is compressed.
    pub(super) compress: bool,
    /// The format was guessed to be raw: the guest must not make it look like another.
    pub(super) guessed_raw: bool,
}

impl Disk {
    /// The top of the chain.
    pub fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// The top as a qcow2 image.
    pub fn image(&self) -> Option<&Image> {
        self.node.as_qcow2()
    }

    /// The driver of a disk that has no format.
    pub fn protocol(&self) -> Option<&str> {
        let driver = self.options.get("driver")?;
        (Format::from_name(driver).is_none() || driver == self.file_driver).then_some(driver)
    }

    /// How it was opened.
    pub fn flags(&self) -> super::Flags {
        self.flags
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.node.size()
    }

    /// The nodes of the chain, the top first.
    pub fn chain(&self) -> Vec<Arc<Node>> {
        std::iter::successors(Some(Arc::clone(&self.node)), |node| node.backing()).collect()
    }

    /// Bytes of a cluster, where the format has any.
    pub fn cluster_size(&self) -> Option<u64> {
        self.image().map(|image| image.geometry().cluster_size())
    }

    /// Fills `buf` from `offset` on.
    pub fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        self.event("read_aio", offset, buf.len() as u64)?;
        self.node.read_at(buf, offset)
    }

    /// Writes all of `buf` from `offset` on.
    pub fn write(&self, buf: &[u8], offset: u64) -> Result<()> {
        let length = buf.len() as u64;
        self.check_write(offset, length)?;
        self.event("write_aio", offset, length)?;
        if self.guessed_raw && offset < PROBED as u64 {
            self.check_start(buf, offset)?;
        }
        match self.compress {
            true => self.write_all_compressed(buf, offset)?,
            false => self.node.write_at(buf, offset)?,
        }
        self.through()
    }

    /// Writes by whole clusters, all of them compressed.
    fn write_all_compressed(&self, buf: &[u8], offset: u64) -> Result<()> {
        let Some(step) = self.cluster_size() else {
            return Err(Error::Unsupported("compression".into()));
        };
        let end = offset + buf.len() as u64;
        let mut start = offset - offset % step;
        while start < end {
            let mut cluster = vec![0; step.min(self.size() - start) as usize];
            self.node.read_at(&mut cluster, start)?;
            let (low, high) = (offset.max(start), end.min(start + cluster.len() as u64));
            cluster[(low - start) as usize..(high - start) as usize]
                .copy_from_slice(&buf[(low - offset) as usize..(high - offset) as usize]);
            self.write_compressed(&cluster, start)?;
            start += step;
        }
        Ok(())
    }

    /// Writes zeroes; `unmap` allows to give the space back.
    pub fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> Result<()> {
        self.check_write(offset, length)?;
        self.event("write_aio", offset, length)?;
        let unit = self.rules.as_ref().map_or(1, |rules| rules.zero_unit);
        let end = offset + length;
        let low = offset.next_multiple_of(unit).min(end);
        let high = (end - end % unit).max(low);
        self.write_zero_data(offset, low)?;
        self.node.write_zeroes(low, high - low, unmap)?;
        self.write_zero_data(high, end)?;
        self.through()
    }

    /// Writes zeroes as data.
    fn write_zero_data(&self, from: u64, to: u64) -> Result<()> {
        let zeroes = vec![0; (to - from).min(1 << 20) as usize];
        let mut at = from;
        while at < to {
            let count = (to - at).min(1 << 20);
            self.node.write_at(&zeroes[..count as usize], at)?;
            at += count;
        }
        Ok(())
    }

    /// Gives a range back; it may read as zeroes or as before.
    pub fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check_write(offset, length)?;
        match &*self.node {
            Node::Qcow2(image) => match image.discard(offset, length) {
                // Nobody is promised that anything happens.
                Err(Error::Unsupported(_)) => {}
                done => done?,
            },
            Node::Raw(disk) if self.flags.unmap => {
                disk.storage()
                    .discard(offset, length)
                    .map_err(|source| Error::Io {
                        action: "discard",
                        offset,
                        length,
                        source,
                    })?
            }
            Node::Raw(_) => {}
        }
        self.through()
    }

    /// Writes a compressed cluster.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for formats other than qcow2.
    pub fn write_compressed(&self, buf: &[u8], offset: u64) -> Result<()> {
        self.check_write(offset, buf.len() as u64)?;
        match self.image() {
            // QEMU's rule: a cluster that has its place in the file is not replaced.
            Some(image) if !buf.is_empty() && image.is_allocated(offset)? => {
                let length = buf.len() as u64;
                let source = std::io::Error::from_raw_os_error(libc::EIO);
                Err(Error::Io {
                    action: "compress over",
                    offset,
                    length,
                    source,
                })
            }
            Some(image) => image.write_compressed(buf, offset),
            None => Err(Error::Unsupported("compression".into())),
        }
    }

    /// Makes all writes durable.
    pub fn flush(&self) -> Result<()> {
        self.event("flush_to_disk", 0, 0)?;
        match &*self.node {
            Node::Qcow2(image) => image.flush(),
            Node::Raw(_) if !self.flags.write => Ok(()),
            Node::Raw(disk) => disk.storage().flush().map_err(|source| Error::Io {
                action: "flush",
                offset: 0,
                length: 0,
                source,
            }),
        }
    }

    /// Changes the size.
    pub fn resize(&mut self, size: u64, preallocation: Preallocation) -> Result<()> {
        if !self.flags.write {
            return Err(Error::ReadOnly);
        }
        match &*self.node {
            Node::Qcow2(image) => return image.resize(size, preallocation),
            Node::Raw(_) if !self.file.grows_with_zeroes() && size != self.size() => {
                return Err(Error::Unsupported("Cannot resize device files".into()));
            }
            Node::Raw(disk) => {
                super::create::resize_raw(&**disk.storage(), size, preallocation)?;
                let storage = Arc::clone(disk.storage());
                self.node = Arc::new(Node::Raw(RawDisk::new(storage)?));
            }
        }
        Ok(())
    }

    /// Ends all writes; the image is left clean.
    pub fn close(&self) -> Result<()> {
        match &*self.node {
            Node::Qcow2(image) if self.flags.write => image.close(),
            _ => self.flush(),
        }
    }

    /// The status of a range in the top alone.
    pub fn layer_status(&self, offset: u64, length: u64) -> Result<Status> {
        status::layer(&self.node, offset, length)
    }

    /// The status of a range through the chain.
    pub fn status(&self, base: Option<&Node>, offset: u64, length: u64) -> Result<Status> {
        status::chain(&self.node, base, offset, length)
    }

    /// Levels from the top to the image of this name, which is relative to the layer above it.
    pub fn find_layer(&self, name: &str) -> Option<usize> {
        let chain = self.chain();
        (1..self.layers.len()).find(|depth| {
            let (above, layer) = (&self.layers[depth - 1].name, &self.layers[*depth].name);
            let image = chain.get(depth - 1).and_then(|node| node.as_qcow2());
            let stored = image.and_then(|image| image.header().backing_file);
            if has_protocol(name) || stored.as_deref().is_some_and(has_protocol) {
                return stored.as_deref() == Some(name) || layer == name;
            }
            let full = full_backing_name(above, name).ok();
            let real = full.and_then(|full| std::fs::canonicalize(full).ok());
            real.is_some() && std::fs::canonicalize(layer).ok() == real
        })
    }

    /// Whether nothing needs to be written where zeroes shall be, right after creation.
    pub fn starts_zeroed(&self) -> bool {
        match &*self.node {
            Node::Qcow2(image) => {
                let unwritten = matches!(
                    image.extent(0, self.size().min(1)),
                    Ok((Extent::Unallocated, _))
                );
                unwritten || (!image.is_encrypted() && image.data_storage().grows_with_zeroes())
            }
            Node::Raw(disk) => disk.storage().grows_with_zeroes(),
        }
    }

    /// The internal snapshots.
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        self.image().map_or(Ok(Vec::new()), Image::snapshots)
    }

    /// Shows an internal snapshot instead of the present state, for reading.
    pub fn load_snapshot(&mut self, snapshot: &Snapshot) -> Result<()> {
        if let Some(open) = &self.image_options {
            let open = OpenOptions {
                snapshot: Some(snapshot.id.clone()),
                writable: false,
                ..open.clone()
            };
            self.node = Arc::new(Node::Qcow2(Image::open(Arc::clone(&self.file), open)?));
        }
        Ok(())
    }

    fn through(&self) -> Result<()> {
        if self.flags.cache.writethrough {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn event(&self, event: &str, offset: u64, length: u64) -> Result<()> {
        match &self.rules {
            None => Ok(()),
            Some(rules) => rules.event(event).map_err(|source| Error::Io {
                action: "serve",
                offset,
                length,
                source,
            }),
        }
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        let size = self.size();
        match offset.checked_add(length) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfRange {
                offset,
                length,
                size,
            }),
        }
    }

    /// Fails for what can not be written whatever it is.
    pub fn check_write(&self, offset: u64, length: u64) -> Result<()> {
        if !self.flags.write {
            return Err(Error::ReadOnly);
        }
        self.check(offset, length)
    }

    /// A guest that writes an image header into a disk whose format was guessed would choose
    /// what is opened the next time.
    fn check_start(&self, buf: &[u8], offset: u64) -> Result<()> {
        let mut start = vec![0; PROBED];
        self.node.read_at(&mut start, 0)?;
        let at = offset as usize;
        let count = buf.len().min(PROBED - at);
        start[at..at + count].copy_from_slice(&buf[..count]);
        match probe(&start) {
            Probed::Known(Format::Raw) => Ok(()),
            _ => Err(Error::NotAllowed(
                "the start of a disk whose format was guessed".into(),
            )),
        }
    }
}
