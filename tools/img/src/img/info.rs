//! `info`: what an image is.

use strata_qcow2::{Image, Snapshot};

use super::info_format::{format_specific, print_specific};
use super::snapshot::{list, print_table, to_json};
use super::{Common, Output, open_image};
use crate::disk::{Disk, Flags, Format, full_backing_name};
use crate::getopt::Spec;
use crate::page::Page;
use crate::report::Outcome;
use crate::text::json::{Value, object};
use crate::text::size::human;
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "info",
    about: "Show what an image is",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::FORMAT,
        Common::OUTPUT,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Spec::flag(
            Some('b'),
            "backing-chain",
            "Show the images below it as well",
        ),
    ],
    examples: &[("--backing-chain overlay.qcow2", "all images of a chain")],
};

/// Longest chain that is followed.
const MAX_CHAIN: usize = 1000;

/// What an image's header says of the file below it.
struct BackingName {
    stored: String,
    full: Option<String>,
    format: Option<String>,
}

/// One image of a chain, opened without those below it.
struct Entry {
    disk: Disk,
    backing: Option<BackingName>,
    snapshots: Vec<Snapshot>,
}

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let mut whole_chain = false;
    let common = Common::parse(args, &PAGE, |_, _| {
        whole_chain = true;
        Ok(())
    })?;
    let name = common.one_image()?;
    let output = common.output()?;
    let entries = collect(&common, name, whole_chain)?;
    match output {
        Output::Human => {
            for (i, entry) in entries.iter().enumerate() {
                if i > 0 {
                    out!("\n");
                }
                entry.print();
            }
        }
        Output::Json => {
            let mut values: Vec<Value> = entries.iter().map(Entry::to_json).collect();
            match (whole_chain, values.pop()) {
                (false, Some(only)) => out!("{}\n", only.pretty()),
                (_, last) => {
                    values.extend(last);
                    out!("{}\n", Value::List(values).pretty());
                }
            }
        }
    }
    Ok(0)
}

fn collect(common: &Common, name: &str, whole_chain: bool) -> Outcome<Vec<Entry>> {
    let flags = Flags {
        no_backing: true,
        no_io: true,
        force_share: common.force_share,
        ..Flags::read()
    };
    let mut seen: Vec<String> = Vec::new();
    let mut entries = Vec::new();
    let mut next = Some((name.to_owned(), common.format.clone()));
    while let Some((name, format)) = next.take() {
        if seen.contains(&name) || seen.len() >= MAX_CHAIN {
            fail!("Backing file '{name}' creates an infinite loop.");
        }
        let image_opts = common.image_opts && seen.is_empty();
        let disk = open_image(image_opts, &name, format.as_deref(), flags)?;
        seen.push(name);
        let entry = Entry {
            backing: backing(&disk),
            snapshots: list(&disk)?,
            disk,
        };
        if let (true, Some(backing)) = (whole_chain, &entry.backing) {
            let Some(full) = &backing.full else {
                fail!(
                    "Could not determine absolute backing filename, but backing filename '{}' \
                     present",
                    backing.stored
                );
            };
            next = Some((full.clone(), backing.format.clone()));
        }
        entries.push(entry);
    }
    Ok(entries)
}

fn backing(disk: &Disk) -> Option<BackingName> {
    let header = disk.image()?.header();
    let stored = header
        .backing_file
        .clone()
        .filter(|name| !name.is_empty())?;
    let full = full_backing_name(&disk.name, &stored).ok();
    Some(BackingName {
        full,
        format: header.backing_format(),
        stored,
    })
}

impl Entry {
    fn print(&self) {
        let disk = &self.disk;
        out!("image: {}\n", disk.name);
        out!("file format: {}\n", shown_format(disk));
        out!(
            "virtual size: {} ({} bytes)\n",
            human(disk.size()),
            disk.size()
        );
        print_allocated(disk, 0);
        if encrypted(disk) {
            out!("encrypted: yes\n");
        }
        if let Some(size) = disk.cluster_size() {
            out!("cluster_size: {size}\n");
        }
        if is_dirty(disk) == Some(true) {
            out!("cleanly shut down: no\n");
        }
        if let Some(backing) = &self.backing {
            out!("backing file: {}", backing.stored);
            match &backing.full {
                None => out!(" (cannot determine actual path)"),
                Some(full) if *full != backing.stored => out!(" (actual path: {full})"),
                Some(_) => {}
            }
            out!("\n");
            if let Some(format) = &backing.format {
                out!("backing file format: {format}\n");
            }
        }
        print_table(&self.snapshots);
        if let Some(specific) = format_specific(disk) {
            out!("Format specific information:\n");
            print_specific(&specific, 1);
        }
        if is_protocol(disk) {
            return;
        }
        let length = file_length(disk);
        out!("Child node '/file':\n    filename: {}\n", disk.file_name);
        out!("    protocol type: {}\n", disk.file_driver);
        out!("    file length: {} ({length} bytes)\n", human(length));
        print_allocated(disk, 1);
    }

    fn to_json(&self) -> Value {
        let disk = &self.disk;
        let children = match is_protocol(disk) {
            true => Vec::new(),
            false => vec![object([
                ("name", Some("file".into())),
                ("info", Some(file_info(disk))),
            ])],
        };
        let specific = format_specific(disk).map(|data| {
            object([
                ("type", Some(disk.format.name().into())),
                ("data", Some(data)),
            ])
        });
        let snapshots = (!self.snapshots.is_empty())
            .then(|| Value::List(self.snapshots.iter().map(to_json).collect()));
        let backing = self.backing.as_ref();
        object([
            ("virtual-size", Some(disk.size().into())),
            ("filename", Some(disk.name.as_str().into())),
            ("cluster-size", disk.cluster_size().map(Value::from)),
            ("format", Some(shown_format(disk).into())),
            ("actual-size", allocated(disk).map(Value::from)),
            ("encrypted", encrypted(disk).then(|| true.into())),
            ("format-specific", specific),
            ("snapshots", snapshots),
            (
                "backing-filename",
                backing.map(|b| b.stored.as_str().into()),
            ),
            (
                "full-backing-filename",
                backing.and_then(|b| b.full.as_deref()).map(Value::from),
            ),
            (
                "backing-filename-format",
                backing.and_then(|b| b.format.as_deref()).map(Value::from),
            ),
            ("dirty-flag", Some(is_dirty(disk).unwrap_or(false).into())),
            ("children", Some(Value::List(children))),
        ])
    }
}

fn file_info(disk: &Disk) -> Value {
    let specific = matches!(disk.file_driver, "file" | "host_device").then(|| {
        object([
            ("type", Some("file".into())),
            ("data", Some(Value::Object(Vec::new()))),
        ])
    });
    object([
        ("children", Some(Value::List(Vec::new()))),
        ("virtual-size", Some(file_length(disk).into())),
        ("filename", Some(disk.file_name.as_str().into())),
        ("format", Some(disk.file_driver.into())),
        ("actual-size", allocated(disk).map(Value::from)),
        ("format-specific", specific),
        ("dirty-flag", Some(false.into())),
    ])
}

/// Whether the disk is a file without a format, as `-f file` opens it.
fn is_protocol(disk: &Disk) -> bool {
    disk.options.get("driver") == Some(disk.file_driver)
}

fn shown_format(disk: &Disk) -> &str {
    if is_protocol(disk) {
        disk.file_driver
    } else {
        disk.format.name()
    }
}

fn encrypted(disk: &Disk) -> bool {
    disk.format == Format::Luks || disk.image().is_some_and(Image::is_encrypted)
}

fn is_dirty(disk: &Disk) -> Option<bool> {
    Some(
        disk.image()?
            .header()
            .incompatible
            .has(strata_qcow2::Incompatible::DIRTY),
    )
}

fn file_length(disk: &Disk) -> u64 {
    disk.file.len().unwrap_or(0).next_multiple_of(512)
}

/// Space on the host, where the file has a place there.
fn allocated(disk: &Disk) -> Option<u64> {
    if disk.file_driver.starts_with("null") {
        None
    } else {
        disk.file.allocated().ok()
    }
}

fn print_allocated(disk: &Disk, level: usize) {
    let size = allocated(disk).map_or_else(|| "unavailable".to_owned(), human);
    out!("{:1$}disk size: {size}\n", "", level * 4);
}
