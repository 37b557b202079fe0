//! Images with all that belongs to them, operations on them, and a model of what must be in them.
#![allow(dead_code)]

pub(crate) mod judge;
pub(crate) mod list;
mod random;

/// A path that leads nowhere, at length.
macro_rules! dots {
    () => {
        "././././././././././././././././././././././././././././././././././././././././././././"
    };
}

use std::collections::BTreeMap;
use std::sync::Arc;

use judge::Contents;
use strata_qcow2::{
    AmendOptions, Backing, CreateOptions, Error, Image, NewSnapshot, Node, OpenOptions,
    Preallocation, RawDisk, Repair, Result, Storage, commit, rebase,
};

/// The image under test.
pub(crate) const TOP: usize = 0;
/// A qcow2 image below it, which jobs may write.
pub(crate) const BASE: usize = 1;
/// Another, raw, that a rebase may put in the base's place.
pub(crate) const OTHER: usize = 2;
/// The external data file.
pub(crate) const DATA: usize = 3;

/// What images call the files below them. A long name reaches past the header's first sector.
pub(crate) const NAMES: [&str; 3] = ["image", "base", concat!(dots!(), dots!(), dots!(), "other")];

/// The storages of a scenario, by the numbers above.
pub(crate) type Disks = BTreeMap<usize, Arc<dyn Storage>>;

/// One operation. Offsets and lengths are in bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    Write(u64, u64, u8),
    /// Zeroes; true allows to free.
    Zero(u64, u64, bool),
    Discard(u64, u64),
    /// One compressed cluster.
    Compress(u64, u8),
    VmState(u64, u8),
    Flush,
    Create(&'static str),
    Apply(&'static str),
    Delete(&'static str),
    Resize(u64, Preallocation),
    AddBitmap(&'static str),
    RemoveBitmap(&'static str),
    RefcountBits(u32),
    Version(u32),
    Lazy(bool),
    Repair,
    Commit,
    Empty,
    /// On the raw file; false: onto the base.
    Rebase(bool),
    Reopen,
}

impl Step {
    /// What was done before this step, and the step, is durable when it is done.
    pub(crate) fn is_durable(&self) -> bool {
        !matches!(
            self,
            Step::Write(..)
                | Step::Zero(..)
                | Step::Discard(..)
                | Step::Compress(..)
                | Step::VmState(..)
                | Step::AddBitmap(_)
                | Step::RemoveBitmap(_)
                | Step::Commit
        )
    }

    /// The disk is seen as before or as after the step, and nothing between.
    pub(crate) fn is_atomic(&self) -> bool {
        matches!(self, Step::Apply(_))
    }
}

/// What must be in the images.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Model {
    pub(crate) disk: Vec<u8>,
    pub(crate) snapshots: BTreeMap<String, Vec<u8>>,
    pub(crate) base: Vec<u8>,
    pub(crate) other: Vec<u8>,
}

/// Data whose every byte says where it is from.
pub(crate) fn pattern(seed: u8, length: u64) -> Vec<u8> {
    (0..length)
        .map(|i| seed.wrapping_add((i / 7) as u8) | 1)
        .collect()
}

impl Model {
    fn fill(&mut self, at: u64, data: &[u8]) {
        self.disk[at as usize..at as usize + data.len()].copy_from_slice(data);
    }

    pub(crate) fn apply(&mut self, step: &Step, cluster: u64) {
        match step {
            Step::Write(at, length, seed) => self.fill(*at, &pattern(*seed, *length)),
            Step::Zero(at, length, _) => self.fill(*at, &vec![0; *length as usize]),
            Step::Discard(at, length) => {
                let size = self.disk.len() as u64;
                let end = at + length;
                let last = if end == size {
                    end.next_multiple_of(cluster)
                } else {
                    end
                };
                let low = at.next_multiple_of(cluster);
                let high = (last - last % cluster).min(size);
                if low < high {
                    self.fill(low, &vec![0; (high - low) as usize]);
                }
            }
            Step::Compress(at, seed) => {
                let length = cluster.min(self.disk.len() as u64 - at);
                self.fill(*at, &pattern(*seed, length));
            }
            Step::Create(name) => {
                self.snapshots.insert((*name).into(), self.disk.clone());
            }
            Step::Apply(name) => self.disk = self.snapshots[*name].clone(),
            Step::Delete(name) => {
                self.snapshots.remove(*name);
            }
            Step::Resize(size, _) => self.disk.resize(*size as usize, 0),
            Step::Commit => {
                let size = self.base.len().max(self.disk.len());
                self.base = self.disk.clone();
                self.base.resize(size, 0);
            }
            _ => {}
        }
    }
}

/// An open image and what it stands on.
pub(crate) struct World {
    pub(crate) top: Arc<Node>,
    pub(crate) base: Option<Arc<Node>>,
    disks: Disks,
}

fn raw(storage: &Arc<dyn Storage>) -> Result<Arc<Node>> {
    Ok(Arc::new(Node::Raw(RawDisk::new(Arc::clone(storage))?)))
}

/// Opens the top image on what it names. The base is written only if the job says so.
pub(crate) fn open(disks: &Disks, options: OpenOptions, write_base: bool) -> Result<World> {
    let header = strata_qcow2::Header::read(&*disks[&TOP])?;
    let mut base = None;
    let mut backing = Backing::Ignored;
    let format = header.backing_format();
    match (header.backing_file.as_deref(), format.as_deref()) {
        (None, None) => {}
        (Some(name), Some("qcow2")) if name == NAMES[BASE] => {
            let options = OpenOptions {
                writable: write_base,
                ..OpenOptions::default()
            };
            let image = Image::open(Arc::clone(&disks[&BASE]), options)?;
            base = Some(Arc::new(Node::Qcow2(image)));
            backing = Backing::Node(base.clone().unwrap());
        }
        (Some(name), Some("raw")) if name == NAMES[OTHER] => {
            backing = Backing::Node(raw(&disks[&OTHER])?);
        }
        (name, format) => {
            let text = format!("stands on {name:?} of format {format:?}");
            return Err(Error::Invalid(text));
        }
    }
    let options = OpenOptions {
        backing,
        data_file: disks.get(&DATA).cloned(),
        ..options
    };
    let image = Image::open(Arc::clone(&disks[&TOP]), options)?;
    Ok(World {
        top: Arc::new(Node::Qcow2(image)),
        base,
        disks: disks.clone(),
    })
}

pub(crate) fn writable() -> OpenOptions {
    OpenOptions {
        writable: true,
        ..OpenOptions::default()
    }
}

impl World {
    pub(crate) fn image(&self) -> &Image {
        self.top.as_qcow2().unwrap()
    }

    /// Lets go of the images as a crash would.
    pub(crate) fn abandon(&self) {
        self.image().abandon();
        if let Some(base) = &self.base {
            base.as_qcow2().unwrap().abandon();
        }
    }

    /// Closes everything and opens it anew.
    fn reopen(&mut self) -> Result<()> {
        self.image().close()?;
        if let Some(base) = &self.base {
            base.as_qcow2().unwrap().close()?;
        }
        let write_base = self.base.is_some();
        *self = open(&self.disks, writable(), write_base)?;
        Ok(())
    }

    pub(crate) fn apply(&mut self, step: &Step) -> Result<()> {
        let image = self.image();
        match step {
            Step::Write(at, length, seed) => image.write_at(&pattern(*seed, *length), *at),
            Step::Zero(at, length, unmap) => image.write_zeroes(*at, *length, *unmap),
            Step::Discard(at, length) => image.discard(*at, *length),
            Step::Compress(at, seed) => {
                let length = image.geometry().cluster_size().min(image.size() - at);
                image.write_compressed(&pattern(*seed, length), *at)
            }
            Step::VmState(length, seed) => image.write_vm_state(&pattern(*seed, *length), 0),
            Step::Flush => image.flush(),
            Step::Create(name) => {
                let new = NewSnapshot {
                    name: (*name).into(),
                    ..NewSnapshot::default()
                };
                image.create_snapshot(&new).map(drop)
            }
            Step::Apply(name) => image.apply_snapshot(name),
            Step::Delete(name) => image.delete_snapshot(name),
            Step::Resize(size, mode) => image.resize(*size, *mode),
            Step::AddBitmap(name) => image.add_bitmap(name, 4096),
            Step::RemoveBitmap(name) => image.remove_bitmap(name),
            Step::RefcountBits(bits) => {
                let refcount_bits = Some(*bits);
                image.amend(&AmendOptions {
                    refcount_bits,
                    ..AmendOptions::default()
                })?;
                self.reopen()
            }
            Step::Version(version) => {
                let version = Some(*version);
                image.amend(&AmendOptions {
                    version,
                    ..AmendOptions::default()
                })
            }
            Step::Lazy(lazy) => {
                let lazy_refcounts = Some(*lazy);
                image.amend(&AmendOptions {
                    lazy_refcounts,
                    ..AmendOptions::default()
                })
            }
            Step::Repair => image.check(Repair::All, &mut |_| {}).map(drop),
            Step::Commit => commit(&self.top, self.base.as_ref().unwrap(), &mut |_, _| true),
            Step::Empty => image.make_empty().and_then(|()| image.flush()),
            Step::Rebase(onto_raw) => {
                let number = if *onto_raw { OTHER } else { BASE };
                let format = if *onto_raw { "raw" } else { "qcow2" };
                let node = match onto_raw {
                    true => raw(&self.disks[&OTHER])?,
                    false => self.base.clone().unwrap(),
                };
                rebase(
                    image,
                    Some(node),
                    Some((NAMES[number], format)),
                    &mut |_, _| true,
                )
            }
            Step::Reopen => self.reopen(),
        }
    }
}

/// A scenario: what there is, what has been done to it, and what happens while power is lost or
/// I/O fails.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) options: CreateOptions,
    /// Size of the base image; none with 0.
    pub(crate) base: u64,
    /// The image has an external data file.
    pub(crate) data_file: bool,
    pub(crate) before: Vec<Step>,
    pub(crate) steps: Vec<Step>,
}

impl Scenario {
    /// Whether a job of this scenario writes the base.
    pub(crate) fn writes_base(&self) -> bool {
        self.steps.contains(&Step::Commit)
    }

    /// Makes the images and does what comes before.
    pub(crate) fn make(&self) -> (Contents, Model) {
        let mut numbers = vec![TOP];
        if self.base > 0 {
            numbers.extend([BASE, OTHER]);
        }
        if self.data_file {
            numbers.push(DATA);
        }
        let disks = judge::disks(&numbers.into_iter().map(|id| (id, Vec::new())).collect());
        let model = self.prepare(&disks);
        (judge::contents(&disks), model)
    }

    fn prepare(&self, disks: &Disks) -> Model {
        let mut options = self.options.clone();
        let mut model = Model::default();
        if self.base > 0 {
            let create = CreateOptions {
                size: self.base,
                cluster_size: 1024,
                ..Default::default()
            };
            create.create(&disks[&BASE]).unwrap();
            let base = Image::open(Arc::clone(&disks[&BASE]), writable()).unwrap();
            model.base = pattern(77, self.base);
            model.base[self.base as usize / 2..][..1024].fill(0);
            base.write_at(&model.base, 0).unwrap();
            base.close().unwrap();
            model.other = model.base.clone();
            model.other[..self.base as usize / 3].fill(33);
            disks[&OTHER].write_at(&model.other, 0).unwrap();
            disks[&OTHER].flush().unwrap();
            options.backing = Some((NAMES[BASE].into(), "qcow2".into()));
        }
        if self.data_file {
            options.data_file = Some(("data".into(), Arc::clone(&disks[&DATA])));
        }
        options.create(&disks[&TOP]).unwrap();
        model.disk = model.base.clone();
        model.disk.resize(options.size as usize, 0);
        let mut world = open(disks, writable(), false).unwrap();
        for step in &self.before {
            world
                .apply(step)
                .unwrap_or_else(|error| panic!("{}: {step:?}: {error}", self.name));
            model.apply(step, options.cluster_size);
        }
        world.image().close().unwrap();
        model
    }
}

/// One test for each group, so that they run side by side: `$run` takes the group's scenarios.
#[macro_export]
macro_rules! test_each_group {
    ($run:path) => {
        $crate::test_each_group! { $run:
            plain_writes_and_discards = "plain",
            compressed_writes = "compressed",
            snapshots = "snapshots",
            sizes_and_table_growth = "sizes",
            backing_commit_and_rebase = "jobs",
            bitmaps_and_amendments = "amendments",
            data_files = "data files",
            operations_in_random_order = "random",
        }
    };
    ($run:path: $($name:ident = $group:literal,)*) => {
        $(
            #[test]
            fn $name() {
                $run(&$crate::scenario::list::group($group));
            }
        )*
    };
}
