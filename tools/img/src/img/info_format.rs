//! What only one format has to tell about an image.

use strata_luks::{Header, Slot};
use strata_qcow2::{Autoclear, Compatible, CompressionType, Incompatible};

use crate::disk::{Disk, Format, luks_header};
use crate::out;
use crate::text::json::{Value, hash_order, object};

/// The facts of the disk's format; None if it has none.
pub(super) fn format_specific(disk: &Disk) -> Option<Value> {
    match disk.format {
        Format::Raw => None,
        Format::Luks => luks_header(disk).as_ref().map(|header| luks(header, false)),
        Format::Qcow2 => qcow2(disk),
    }
}

fn qcow2(disk: &Disk) -> Option<Value> {
    let image = disk.image()?;
    let header = image.header();
    let encrypt = luks_header(disk).as_ref().map(|header| luks(header, true));
    if header.version == 2 {
        return Some(object([
            ("compat", Some("0.10".into())),
            ("compression-type", Some("zlib".into())),
            ("refcount-bits", Some(16u64.into())),
            ("encrypt", encrypt),
        ]));
    }
    let compression = match header.compression {
        CompressionType::Zlib => "zlib",
        CompressionType::Zstd => "zstd",
    };
    let data_file = disk.data_file_name.is_some();
    let raw = header.autoclear.has(Autoclear::DATA_FILE_RAW);
    let lazy = header.compatible.has(Compatible::LAZY_REFCOUNTS);
    let corrupt = header.incompatible.has(Incompatible::CORRUPT);
    let bits = 1u64 << header.geometry.refcount_order;
    Some(object([
        ("compat", Some("1.1".into())),
        ("compression-type", Some(compression.into())),
        ("lazy-refcounts", Some(lazy.into())),
        ("refcount-bits", Some(bits.into())),
        ("corrupt", Some(corrupt.into())),
        ("extended-l2", Some(header.geometry.extended_l2.into())),
        ("data-file", header.data_file_name().map(Value::from)),
        ("data-file-raw", data_file.then(|| raw.into())),
        ("bitmaps", super::bitmap::to_json(image)),
        ("encrypt", encrypt),
    ]))
}

fn luks(header: &Header, inside: bool) -> Value {
    let mode = header.cipher.mode.name();
    let (mode, generator) = mode.split_once('-').unwrap_or((mode, ""));
    let (generator, hash) = match generator.split_once(':') {
        Some((generator, hash)) => (generator, Some(hash)),
        None => (generator, None),
    };
    object([
        ("format", inside.then(|| "luks".into())),
        ("ivgen-alg", Some(generator.into())),
        ("ivgen-hash-alg", hash.map(Value::from)),
        ("detached-header", Some(false.into())),
        ("hash-alg", Some(header.hash.name().into())),
        ("cipher-alg", Some(header.cipher.cipher.name().into())),
        ("cipher-mode", Some(mode.into())),
        ("uuid", Some(header.uuid.as_str().into())),
        (
            "slots",
            Some(Value::List(header.slots.iter().map(slot).collect())),
        ),
        ("payload-offset", Some(header.payload_offset().into())),
        (
            "master-key-iters",
            Some(u64::from(header.digest_iterations).into()),
        ),
    ])
}

fn slot(slot: &Slot) -> Value {
    object([
        ("active", Some(slot.active.into())),
        (
            "iters",
            slot.active.then(|| u64::from(slot.iterations).into()),
        ),
        (
            "key-offset",
            Some((u64::from(slot.material_sector) * 512).into()),
        ),
        ("stripes", slot.active.then(|| 4000u64.into())),
    ])
}

/// Prints the facts of the disk's format, if there are any.
pub(crate) fn print(disk: &Disk) {
    if let Some(specific) = format_specific(disk) {
        out!("Format specific information:\n");
        print_specific(&specific, 1);
    }
}

/// Prints members and items by lines, `level` steps indented.
pub(super) fn print_specific(value: &Value, level: usize) {
    match value {
        Value::Object(members) => {
            for (name, value) in hash_order(members) {
                print_one(&name.replace('-', " "), value, level);
            }
        }
        Value::List(items) => {
            for (i, value) in items.iter().enumerate() {
                print_one(&format!("[{i}]"), value, level);
            }
        }
        scalar => out!("{}", plain(scalar)),
    }
}

fn print_one(name: &str, value: &Value, level: usize) {
    out!("{:1$}{name}:", "", level * 4);
    match value {
        Value::Object(_) | Value::List(_) => {
            out!("\n");
            print_specific(value, level + 1);
        }
        scalar => out!(" {}\n", plain(scalar)),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        other => other.compact(),
    }
}
