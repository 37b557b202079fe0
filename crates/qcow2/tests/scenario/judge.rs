//! Whether images hold what they must.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::{
    FindingKind, Header, Image, Incompatible, OpenOptions, Repair, Result, Storage,
};

use super::{BASE, DATA, Disks, Model, NAMES, OTHER, TOP, open, pattern, writable};

/// The bytes of every disk of a scenario.
pub(crate) type Contents = BTreeMap<usize, Vec<u8>>;

/// Fresh disks in memory.
pub(crate) fn disks(contents: &Contents) -> Disks {
    contents
        .iter()
        .map(|(&id, bytes)| {
            let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new(bytes.clone()));
            (id, storage)
        })
        .collect()
}

/// What disks hold now.
pub(crate) fn contents(disks: &Disks) -> Contents {
    let all = |storage: &Arc<dyn Storage>| {
        let mut bytes = vec![0; storage.len().unwrap() as usize];
        storage.read_at(&mut bytes, 0).unwrap();
        bytes
    };
    disks
        .iter()
        .map(|(&id, storage)| (id, all(storage)))
        .collect()
}

/// States of which every byte on the disk must be from one.
pub(crate) struct Window<'a> {
    pub(crate) states: Vec<&'a Model>,
    /// The disk is as a whole like one of the states.
    pub(crate) atomic: bool,
}

impl Window<'_> {
    fn check_bytes(
        &self,
        what: &str,
        found: &[u8],
        pick: impl Fn(&Model) -> &[u8],
    ) -> Result<(), String> {
        let states: Vec<&[u8]> = self.states.iter().map(|state| pick(state)).collect();
        if !states.iter().any(|state| state.len() == found.len()) {
            return Err(format!("{what}: size {}", found.len()));
        }
        if states.contains(&found) {
            return Ok(());
        }
        if self.atomic {
            return Err(format!("{what}: neither as before nor as after"));
        }
        for (at, byte) in found.iter().enumerate() {
            if !states
                .iter()
                .any(|state| state.get(at).copied().unwrap_or(0) == *byte)
            {
                let allowed: Vec<_> = states.iter().map(|state| state.get(at)).collect();
                return Err(format!(
                    "{what}: byte {at:#x} is {byte}, allowed {allowed:?}"
                ));
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, disks: &Disks, image: &Image) -> Result<(), String> {
        let mut names: Vec<String> = text(image.snapshots())?
            .into_iter()
            .map(|s| s.name)
            .collect();
        names.sort();
        let listed = |state: &&Model| state.snapshots.keys().eq(names.iter());
        if !self.states.iter().any(listed) {
            return Err(format!("snapshots {names:?}"));
        }
        for name in names {
            let options = OpenOptions {
                snapshot: Some(name.clone()),
                ..OpenOptions::default()
            };
            let view = text(open(disks, options, false))?;
            let found = read(view.image())?;
            let fits = |state: &&Model| state.snapshots.get(&name).is_some_and(|s| *s == found);
            if !self.states.iter().any(fits) {
                return Err(format!("snapshot {name} has other contents"));
            }
        }
        Ok(())
    }

    /// Everything that can be seen through `image`.
    fn check_contents(&self, disks: &Disks, image: &Image) -> Result<(), String> {
        self.check_bytes("disk", &read(image)?, |state| &state.disk)?;
        self.check_snapshots(disks, image)
    }
}

fn text<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| error.to_string())
}

fn read(image: &Image) -> Result<Vec<u8>, String> {
    let mut all = vec![0xee; image.size() as usize];
    text(image.read_at(&mut all, 0))?;
    Ok(all)
}

/// Fails for anything worse than a leak; returns how many of those there are.
pub(crate) fn at_most_leaks(image: &Image) -> Result<u64, String> {
    let mut worse = Vec::new();
    let report = text(image.check(Repair::Nothing, &mut |finding| {
        if matches!(
            finding.kind,
            FindingKind::Corruption | FindingKind::CheckError
        ) {
            worse.push(finding.text.clone());
        }
    }))?;
    if worse.is_empty() {
        Ok(report.leaks)
    } else {
        Err(format!("check: {worse:?}"))
    }
}

/// Looks at an image as it was left: as it is, then repaired and written to.
pub(crate) fn judge(contents: &Contents, window: &Window<'_>) -> Result<(), String> {
    let disks = disks(contents);
    let header = text(Header::read(&*disks[&TOP]))?;
    {
        let world =
            text(open(&disks, OpenOptions::default(), false)).map_err(|e| format!("open: {e}"))?;
        window
            .check_contents(&disks, world.image())
            .map_err(|e| format!("read-only: {e}"))?;
        if !header.incompatible.has(Incompatible::DIRTY) {
            at_most_leaks(world.image())?;
        }
    }
    if let Some(base) = disks.get(&BASE) {
        let image = text(Image::open(Arc::clone(base), writable()))?;
        at_most_leaks(&image).map_err(|e| format!("base: {e}"))?;
        window.check_bytes("base", &read(&image)?, |state| &state.base)?;
    }
    let world = text(open(&disks, writable(), false)).map_err(|e| format!("open to write: {e}"))?;
    let image = world.image();
    at_most_leaks(image).map_err(|e| format!("opened to write: {e}"))?;
    let mut all = read(image)?;
    // It can be written, too: over what is there, and over what must be allocated.
    let length = (all.len() as u64).min(3000);
    for at in [0, (all.len() as u64 - length) / 512 * 512] {
        let data = pattern(211, length);
        text(image.write_at(&data, at)).map_err(|e| format!("write after: {e}"))?;
        all[at as usize..][..data.len()].copy_from_slice(&data);
    }
    text(image.flush())?;
    at_most_leaks(image).map_err(|e| format!("written to: {e}"))?;
    window
        .check_snapshots(&disks, image)
        .map_err(|e| format!("written to: {e}"))?;
    let report = text(image.check(Repair::All, &mut |_| {}))?;
    text(image.close())?;
    let world = text(open(&disks, OpenOptions::default(), false))?;
    if report.leaks + at_most_leaks(world.image())? > 0 {
        return Err("leaks stay after a repair".into());
    }
    if read(world.image())? != all {
        return Err("what was written after is not there".into());
    }
    window.check_snapshots(&disks, world.image())
}

/// QEMU's opinion of an image without the dirty bit: at most leaks.
pub(crate) fn qemu_judges(contents: &Contents, dir: &Path) {
    let disks = disks(contents);
    let header = Header::read(&*disks[&TOP]).unwrap();
    if header.incompatible.has(Incompatible::DIRTY) {
        return;
    }
    for (id, name) in [
        (TOP, NAMES[TOP]),
        (BASE, NAMES[BASE]),
        (OTHER, NAMES[OTHER]),
        (DATA, "data"),
    ] {
        if let Some(bytes) = contents.get(&id) {
            std::fs::write(dir.join(name), bytes).unwrap();
        }
    }
    let output = Command::new("qemu-img")
        .args(["check", "-f", "qcow2", "image"])
        .current_dir(dir)
        .output()
        .unwrap();
    // 0: clean, 3: leaks.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{output:?}");
}
