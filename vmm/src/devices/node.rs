//! Block nodes: images that are open, or at hand, for disks that come and go.

use std::fs::OpenOptions;
use std::sync::Arc;

use strata_block::{Disk, Format};

use super::{Disks, Pci};
use crate::config::DiskConfig;
use crate::error::Error;

/// A node.
#[derive(Clone)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it is of; only what concerns the image counts.
    pub config: DiskConfig,
    /// What is open and locked; none for a bare file, which only its user opens.
    pub disk: Option<Arc<Disk>>,
    /// The node of the bare file below, which can not go before this one.
    pub file: Option<String>,
}

impl Node {
    pub(super) fn close(&self) -> Result<(), Error> {
        match &self.disk {
            Some(disk) => Ok(disk.close()?),
            None => Ok(()),
        }
    }
}

impl Disks {
    /// The nodes, in the order in which they were added.
    pub fn nodes(&self) -> Vec<Node> {
        self.nodes.borrow().clone()
    }

    /// The node with this name.
    ///
    /// # Errors
    /// [`Error::NoNode`].
    pub fn node(&self, name: &str) -> Result<Node, Error> {
        let nodes = self.nodes.borrow();
        let node = nodes.iter().find(|node| node.name == name);
        node.cloned().ok_or_else(|| Error::NoNode(name.to_owned()))
    }

    /// Who uses a node: a disk, or another node.
    pub fn user(&self, name: &str) -> Option<String> {
        let is_named = |node: &Option<String>| node.as_deref() == Some(name);
        let disk = self.list().into_iter().find(|disk| is_named(&disk.node));
        let disk = disk.map(|disk| disk.id);
        let nodes = self.nodes.borrow();
        let above = nodes.iter().find(|node| is_named(&node.file));
        disk.or_else(|| above.map(|node| node.name.clone()))
    }

    /// Adds a node for an image, of a format that is said, or for a bare file.
    ///
    /// # Errors
    /// [`Error::TakenId`], [`Error::NodeInUse`] for a file's node that has a user, [`Error::File`], and
    /// those of a disk's files as in [`Disks::add`].
    pub fn add_node(
        &self,
        name: &str,
        config: DiskConfig,
        file: Option<String>,
    ) -> Result<(), Error> {
        if self.node(name).is_ok() {
            return Err(Error::TakenId(name.to_owned()));
        }
        if let Some(file) = &file {
            self.check_unused(file)?;
        }
        let disk = match config.format {
            Some(format) => Some(self.open(&config, format)?),
            None => {
                let mut options = OpenOptions::new();
                options.read(true).write(!config.readonly);
                options.open(&config.path).map_err(|source| Error::File {
                    what: "block node",
                    path: config.path.clone(),
                    remedy: "name a file that strata may open",
                    source,
                })?;
                None
            }
        };
        self.nodes.borrow_mut().push(Node {
            name: name.to_owned(),
            config,
            disk,
            file,
        });
        Ok(())
    }

    /// Closes a node and gives its name back.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NodeInUse`]; [`Error::Disk`] when it could not be made durable:
    /// it is gone all the same.
    pub fn delete_node(&self, name: &str) -> Result<(), Error> {
        let node = self.node(name)?;
        self.check_unused(name)?;
        self.nodes.borrow_mut().retain(|node| node.name != name);
        node.close()
    }

    /// Puts a disk on the bus that shows a node. A bare file is opened as a raw disk.
    ///
    /// # Errors
    /// [`Error::NoNode`], [`Error::NodeInUse`], [`Error::Disk`], and as [`Pci::add`].
    pub fn add_on_node(&self, config: &DiskConfig, name: &str, pci: &Pci) -> Result<(), Error> {
        self.check_unused(name)?;
        let node = self.node(name)?;
        let disk = match node.disk {
            Some(disk) => disk,
            None => self.open(config, Format::Raw)?,
        };
        self.add_open(config, disk, Some(name.to_owned()), pci)
    }

    fn check_unused(&self, name: &str) -> Result<(), Error> {
        match self.user(name) {
            Some(user) => Err(Error::NodeInUse {
                node: name.to_owned(),
                user,
            }),
            None => Ok(()),
        }
    }
}
