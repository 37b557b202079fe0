//! `snapshot`: internal snapshots.

use std::time::{SystemTime, UNIX_EPOCH};

use strata_qcow2::{Error, NewSnapshot, Snapshot};

use super::{Common, reason};
use crate::disk::{Disk, Flags, words};
use crate::getopt::Spec;
use crate::page::Page;
use crate::report::{Failure, Outcome};
use crate::text::json::{Value, object};
use crate::text::{keyval, size::human};
use crate::{fail, out, sys};

pub(super) const PAGE: Page = Page {
    name: "snapshot",
    about: "List, take, go back to and delete internal snapshots",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::QUIET,
        Common::FORMAT,
        Spec::flag(Some('l'), "list", "List them"),
        Spec::value(Some('a'), "apply", "SNAPSHOT", "Go back to this one"),
        Spec::value(Some('c'), "create", "SNAPSHOT", "Take one of this name"),
        Spec::value(Some('d'), "delete", "SNAPSHOT", "Delete this one"),
    ],
    examples: &[
        ("-c before disk.qcow2", "take one"),
        ("-a before disk.qcow2", "go back to it"),
    ],
};

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut action: Option<(String, String)> = None;
    let common = Common::parse(args, &PAGE, |name, value| {
        if action.replace((name.to_owned(), value)).is_some() {
            return Err(Failure::usage("Cannot mix '-l', '-a', '-c', '-d'"));
        }
        Ok(())
    })?;
    let name = common.one_image()?;
    let listing = action.as_ref().is_some_and(|(action, _)| action == "list");
    let disk = common.open(
        name,
        Flags {
            write: !listing,
            ..Flags::default()
        },
    )?;
    let Some((action, name)) = action else {
        return Ok(0);
    };
    match action.as_str() {
        "list" => {
            print_table(&list(&disk)?);
        }
        "create" => create(&disk, &name)?,
        "apply" => apply(&disk, &name)?,
        _ => delete(&disk, &name)?,
    }
    if !listing {
        disk.close().map_err(|error| Failure::new(words(&error)))?;
    }
    Ok(0)
}

fn create(disk: &Disk, name: &str) -> Outcome<()> {
    let failed = |why: String| Failure::new(format!("Could not create snapshot '{name}': {why}"));
    let Some(image) = disk.image() else {
        return Err(failed(not_supported()));
    };
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let new = NewSnapshot {
        name: name.to_owned(),
        date: (now.as_secs() as u32, now.subsec_nanos()),
        icount: Some(0),
        ..NewSnapshot::default()
    };
    image.create_snapshot(&new).map_err(|error| match error {
        Error::TooLarge {
            what: "refcount", ..
        } => failed(crate::report::errno_text(libc::EINVAL)),
        other => failed(reason(&other)),
    })?;
    Ok(())
}

fn apply(disk: &Disk, name: &str) -> Outcome<()> {
    let failed = |why: String| Failure::new(format!("Could not apply snapshot '{name}': {why}"));
    let Some(image) = disk.image() else {
        return Err(failed(not_supported()));
    };
    let bitmaps = image.bitmap_names();
    if !bitmaps.map_err(|error| failed(words(&error)))?.is_empty() {
        return Err(failed("Device has active dirty bitmaps".to_owned()));
    }
    let Some(snapshot) = find(&list(disk)?, name) else {
        let why = crate::report::errno_text(libc::ENOENT);
        return Err(failed(format!("Failed to load snapshot: {why}")));
    };
    image.apply_snapshot(&snapshot.id).map_err(|error| {
        if matches!(error, Error::Malformed { .. } | Error::TooLarge { .. }) {
            crate::report::error(words(&error));
        }
        failed(format!("Failed to load snapshot: {}", reason(&error)))
    })
}

fn delete(disk: &Disk, name: &str) -> Outcome<()> {
    let failed = |why: String| Failure::new(format!("Could not delete snapshot '{name}': {why}"));
    let (Some(image), Some(snapshot)) = (disk.image(), find(&list(disk)?, name)) else {
        return Err(failed("snapshot not found".to_owned()));
    };
    image
        .delete_snapshot(&snapshot.id)
        .map_err(|error| failed(words(&error)))
}

fn not_supported() -> String {
    crate::report::errno_text(libc::ENOTSUP)
}

/// The snapshot of this id, or else of this name.
fn find(all: &[Snapshot], name: &str) -> Option<Snapshot> {
    let by_id = all.iter().find(|snapshot| snapshot.id == name);
    by_id
        .or_else(|| all.iter().find(|snapshot| snapshot.name == name))
        .cloned()
}

/// Refuses a `snapshot.` parameter with unknown names before anything is opened.
pub(super) fn check_parameter(parameter: &str) -> Outcome<()> {
    if !parameter.starts_with("snapshot.") {
        return Ok(());
    }
    let known = |name: &str| matches!(name, "snapshot.id" | "snapshot.name");
    match keyval::parse(parameter, None)
        .iter()
        .find(|(name, _)| !known(name))
    {
        None => Ok(()),
        Some((name, _)) => {
            crate::report::error(format_args!("Invalid parameter '{name}'"));
            fail!("Failed in parsing snapshot param '{parameter}'")
        }
    }
}

/// Makes `disk` show the snapshot that `-l` names: an id or name, or `snapshot.id=` and
/// `snapshot.name=`.
pub(super) fn load(disk: &mut Disk, parameter: &str) -> Outcome<()> {
    let failed = |why: String| Failure::new(format!("Failed to load snapshot: {why}"));
    let snapshot = {
        if disk.image().is_none() {
            let format = disk.format.name();
            return Err(failed(format!(
                "Block format '{format}' does not support internal snapshots"
            )));
        }
        let all = list(disk)?;
        match parameter.starts_with("snapshot.") {
            true => find_exact(&all, parameter)?,
            false => find(&all, parameter),
        }
        .ok_or_else(|| failed("Can't find snapshot".to_owned()))?
    };
    disk.load_snapshot(&snapshot)
        .map_err(|error| failed(words(&error)))
}

fn find_exact(all: &[Snapshot], parameter: &str) -> Outcome<Option<Snapshot>> {
    let (mut id, mut name) = (None, None);
    for (key, value) in keyval::parse(parameter, None) {
        match key.as_str() {
            "snapshot.id" => id = Some(value),
            "snapshot.name" => name = Some(value),
            _ => fail!("Failed in parsing snapshot param '{parameter}'"),
        }
    }
    let matches = |snapshot: &&Snapshot| {
        id.as_ref().is_none_or(|id| *id == snapshot.id)
            && name.as_ref().is_none_or(|name| *name == snapshot.name)
    };
    Ok(all.iter().find(matches).cloned())
}

/// All snapshots of a disk.
pub(super) fn list(disk: &Disk) -> Outcome<Vec<Snapshot>> {
    disk.snapshots()
        .map_err(|error| Failure::new(words(&error)))
}

/// Prints all snapshots of an image, if there are any.
pub(super) fn print_table(snapshots: &[Snapshot]) {
    if snapshots.is_empty() {
        return;
    }
    out!("Snapshot list:\n");
    let (size, date, clock) = ("VM_SIZE", "DATE", "VM_CLOCK");
    out!(
        "{:<7} {:<16} {size:>8} {date:>19} {clock:>15} {:>10}\n",
        "ID",
        "TAG",
        "ICOUNT"
    );
    for snapshot in snapshots {
        let [year, month, day, hour, minute, second] = sys::local_time(i64::from(snapshot.date.0));
        let date = format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}");
        let seconds = snapshot.vm_clock / 1_000_000_000;
        let clock = format!(
            "{:04}:{:02}:{:02}.{:03}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60,
            snapshot.vm_clock / 1_000_000 % 1000
        );
        let icount = snapshot
            .icount
            .map_or_else(|| "--".to_owned(), |icount| icount.to_string());
        let size = human(snapshot.vm_state_size);
        let (id, name) = (&snapshot.id, &snapshot.name);
        out!("{id:<7} {name:<16} {size:>8} {date:>19} {clock:>15} {icount:>10}\n");
    }
}

/// A snapshot as `info --output=json` shows it.
pub(super) fn to_json(snapshot: &Snapshot) -> Value {
    object([
        ("icount", snapshot.icount.map(Value::from)),
        (
            "vm-clock-nsec",
            Some((snapshot.vm_clock % 1_000_000_000).into()),
        ),
        ("name", Some(snapshot.name.as_str().into())),
        ("date-sec", Some(u64::from(snapshot.date.0).into())),
        ("date-nsec", Some(u64::from(snapshot.date.1).into())),
        (
            "vm-clock-sec",
            Some((snapshot.vm_clock / 1_000_000_000).into()),
        ),
        ("id", Some(snapshot.id.as_str().into())),
        ("vm-state-size", Some(snapshot.vm_state_size.into())),
    ])
}
