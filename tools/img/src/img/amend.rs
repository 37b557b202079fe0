//! `amend`: changes options of an image that exists.

use strata_luks::{Header, HeaderStorage, SLOTS, Volume};
use strata_qcow2::luks::HeaderArea;
use strata_qcow2::{AmendOptions, Error};

use super::create::amend_help;
use super::{Common, accumulate, cache, reason};
use crate::disk::{Cache, Disk, Flags, Format, Part, iter_time, luks_failure, secret, words};
use crate::fail;
use crate::getopt::Spec;
use crate::options::{Values, amend_table, create_table};
use crate::page::Page;
use crate::progress::Progress;
use crate::report::{self, Failure, Outcome};
use crate::text::keyval;

pub(super) const PAGE: Page = Page {
    name: "amend",
    about: "Change options of an image that exists",
    operands: "-o OPTIONS FILENAME",
    specs: &[
        Common::HELP,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORMAT,
        Common::PROGRESS,
        Common::QUIET,
        Spec::value(
            Some('o'),
            "options",
            "OPTIONS",
            "What to change, as NAME=VALUE,..; `-o help` lists what there is",
        ),
        Spec::value(
            Some('t'),
            "cache",
            "MODE",
            "Cache mode of the image: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
        Spec::flag(
            None,
            "force",
            "Allow what could lock everybody out, such as removing the last key",
        ),
    ],
    examples: &[
        (
            "-o compat=1.1 old.qcow2",
            "make an old image one of version 3",
        ),
        ("-f qcow2 -o help", "what can be changed"),
    ],
};

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut options, mut cache_mode, mut force) = (None, None, false);
    let common = Common::parse(args, &PAGE, |name, value| {
        match name {
            "options" => accumulate(&mut options, &value)?,
            "cache" => cache_mode = Some(value),
            _ => force = true,
        }
        Ok(())
    })?;
    let Some(options) = options else {
        return Err(Failure::usage("Must specify options (-o)"));
    };
    let help = keyval::asks_for_help(&options);
    if let (true, Some(format)) = (help, &common.format) {
        return amend_help(format);
    }
    let [name] = common.operands.as_slice() else {
        fail!("Expecting one image file name")
    };
    let cache = cache(
        cache_mode.as_deref(),
        Cache::WRITEBACK,
        "Invalid cache option",
    )?;
    let progress = Progress::new(common.progress, 1);
    let disk = common.open(
        name,
        Flags {
            cache,
            ..Flags::write()
        },
    )?;
    if help {
        return amend_help(disk.format.name());
    }
    let format = disk.format;
    let Some(table) = amend_table(format) else {
        fail!(
            "Format driver '{}' does not support option amendment",
            format.name()
        );
    };
    let mut values = Values::new(table);
    if let Err(failure) = values.parse(&options) {
        let known = Values::new(create_table(format, true))
            .parse(&options)
            .is_ok();
        return Err(match known {
            true => failure.hint("This option is only supported for image creation"),
            false => failure,
        });
    }
    match format {
        Format::Luks => amend_keys(&HeaderArea(&*disk.file), &disk, &values, "", force)?,
        _ => amend_image(&disk, &values, force)?,
    }
    disk.close().map_err(|error| Failure::new(words(&error)))?;
    progress.finish();
    Ok(0)
}

fn amend_image(disk: &Disk, values: &Values, force: bool) -> Outcome<()> {
    let Some(image) = disk.image() else {
        fail!("not a qcow2 image")
    };
    let version = match values.text("compat") {
        None => None,
        Some("0.10" | "v2") => Some(2),
        Some("1.1" | "v3") => Some(3),
        Some(other) => fail!("Unknown compatibility level {other}"),
    };
    if values
        .given()
        .iter()
        .any(|(name, _)| name.starts_with("encrypt."))
    {
        let Some(place) = image.header().crypto_header() else {
            fail!("Can't amend encryption options - encryption not present");
        };
        let (start, length) = (place.offset, place.length);
        let area = Part {
            storage: &*disk.file,
            start,
            length,
        };
        amend_keys(&area, disk, values, "encrypt.", force)?;
    }
    let header = image.header();
    let backing = values
        .text("backing_file")
        .is_some_and(|name| header.backing_file.as_deref() != Some(name));
    let format = values
        .text("backing_fmt")
        .is_some_and(|name| header.backing_format().as_deref() != Some(name));
    if backing || format {
        return Err(Failure::new("Cannot amend the backing file")
            .hint("You can use 'qemu-img rebase' instead."));
    }
    let refcount_bits = match values.number("refcount_bits") {
        None => None,
        Some(bits) if bits.is_power_of_two() && bits <= 64 => Some(bits as u32),
        Some(_) => fail!("Refcount width must be a power of two and may not exceed 64 bits"),
    };
    if refcount_bits.is_some_and(|bits| bits != 16) && version.unwrap_or(header.version) < 3 {
        fail!(
            "Refcount widths other than 16 bits require compatibility level 1.1 or above (use \
             compat=1.1 or greater)"
        );
    }
    let amend = AmendOptions {
        version,
        lazy_refcounts: values.switch("lazy_refcounts"),
        refcount_bits,
        size: values.number("size").filter(|size| *size > 0),
        data_file_raw: values.switch("data_file_raw"),
        data_file: values.text("data_file").map(str::to_owned),
    };
    image.amend(&amend).map_err(|error| match error {
        // The version is lowered last, and zero clusters are all that stands in its way then.
        Error::Malformed { .. } | Error::TooLarge { .. } if version == Some(2) => {
            report::error(words(&error));
            Failure::new(format!(
                "Failed to turn zero into data clusters: {}",
                reason(&error)
            ))
        }
        other => Failure::new(words(&other)),
    })
}

/// Changes key slots: `state=active` adds a key, `state=inactive` erases keys.
fn amend_keys(
    area: &impl HeaderStorage,
    disk: &Disk,
    values: &Values,
    prefix: &str,
    force: bool,
) -> Outcome<()> {
    let text = |name: &str| values.text(&format!("{prefix}{name}"));
    let Some(key) = disk.options.get(&format!("{prefix}key-secret")) else {
        fail!("Parameter 'key-secret' is required for cipher");
    };
    let mut volume = Volume::open(area, &secret::passphrase(key)?).map_err(luks_failure)?;
    let slot = match values.number(&format!("{prefix}keyslot")) {
        None => None,
        Some(slot) if slot < SLOTS as u64 => Some(slot as usize),
        Some(slot) => {
            fail!(
                "Invalid keyslot {slot} specified, must be between 0 and {}",
                SLOTS - 1
            )
        }
    };
    let old = text("old-secret").map(secret::passphrase).transpose()?;
    match text("state") {
        Some("active") => {
            let Some(new) = text("new-secret") else {
                fail!("'new-secret' is required to activate a keyslot");
            };
            if old.is_some() {
                fail!("'old-secret' must not be given when activating keyslots");
            }
            let (new, time) = (secret::passphrase(new)?, iter_time(values, prefix)?);
            let taken = slot.filter(|slot| volume.header().slots[*slot].active);
            let changed = match taken {
                Some(slot) if force => volume.replace_key(area, slot, &new, time),
                Some(slot) => {
                    fail!("Refusing to overwrite active keyslot {slot} - please erase it first")
                }
                None => volume.add_key(area, slot, &new, time).map(drop),
            };
            changed.map_err(luks_failure)
        }
        Some("inactive") => {
            if text("new-secret").is_some() {
                fail!("'new-secret' must not be given when erasing keyslots");
            }
            if text("iter-time").is_some() {
                fail!("'iter-time' must not be given when erasing keyslots");
            }
            erase(
                area,
                &mut volume,
                slot,
                old.as_ref().map(|old| old.as_slice()),
                force,
            )
        }
        Some(other) => fail!("Parameter 'state' does not accept value '{other}'"),
        None => fail!("Parameter '{prefix}state' is missing"),
    }
}

fn erase(
    area: &impl HeaderStorage,
    volume: &mut Volume,
    slot: Option<usize>,
    old: Option<&[u8]>,
    force: bool,
) -> Outcome<()> {
    let opens = |volume: &Volume, slot: usize, old: &[u8]| {
        volume.slot_opens(area, slot, old).map_err(luks_failure)
    };
    let Some(slot) = slot else {
        let Some(old) = old else {
            fail!(
                "To erase keyslot(s), either explicit keyslot index or the password currently \
                   contained in them must be given"
            );
        };
        let mut matching = Vec::new();
        for slot in 0..SLOTS {
            if opens(volume, slot, old)? {
                matching.push(slot);
            }
        }
        if matching.is_empty() {
            fail!("No keyslots match given (old) password for erase operation");
        }
        if matching.len() == active(volume.header()) && !force {
            fail!(
                "All the active keyslots match the (old) password that was given and erasing \
                 them will erase all the data in the image irreversibly - refusing operation"
            );
        }
        return matching
            .into_iter()
            .try_for_each(|slot| volume.remove_key(area, slot, force).map_err(luks_failure));
    };
    if let Some(old) = old
        && !opens(volume, slot, old)?
    {
        fail!("Given keyslot {slot} doesn't contain the given old password for erase operation");
    }
    if !volume.header().slots[slot].active {
        if force {
            return Ok(());
        }
        fail!("Given keyslot {slot} is already erased (inactive) ");
    }
    volume.remove_key(area, slot, force).map_err(luks_failure)
}

fn active(header: &Header) -> usize {
    header.slots.iter().filter(|slot| slot.active).count()
}
