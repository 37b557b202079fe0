//! New images.

use std::io;
use std::path::Path;
use std::sync::Arc;

use strata_luks::Volume;
use strata_qcow2::luks::HeaderArea;
use strata_qcow2::storage::{FileOptions, FileStorage};
use strata_qcow2::{CompressionType, CreateOptions, Error, Header, Preallocation, Storage};

use super::filename::{full_backing_name, local_path};
use super::luks::{luks_failure, new_volume};
use super::protocol::open_file;
use super::words::{io_errno, words};
use super::{Flags, Format};
use crate::fail;
use crate::options::Values;
use crate::report::{Failure, Outcome, errno_text};

/// Makes the image `name` as `values` say. Files that were made for nothing are removed, and those
/// that were emptied for nothing too, but for raw images, as QEMU has it. One that was there before
/// stays as it is if the options alone show that nothing can come of it.
///
/// # Errors
/// In qemu's words; code 27 (EFBIG) marks an image that is too large for its format.
pub fn create(name: &str, format: Format, values: &Values) -> Outcome<()> {
    let path = local_path(name)?;
    let mut made = Vec::new();
    let done = match format {
        Format::Raw => raw(path, values, &mut made),
        Format::Luks => luks(path, values, &mut made),
        Format::Qcow2 => qcow2(path, values, &mut made),
    };
    if done.is_err() {
        // The failure is the news, not that its remains could not be removed.
        made.iter()
            .for_each(|path| drop(std::fs::remove_file(path)));
    }
    done
}

/// An empty file; `made` hears of it unless it is a device.
fn new_file(path: &str, made: &mut Vec<String>) -> Outcome<Arc<dyn Storage>> {
    let options = FileOptions {
        write: true,
        create: true,
        direct: false,
    };
    // A file in use must not be emptied: it is locked before.
    if Path::new(path).exists() {
        let options = FileOptions {
            create: false,
            ..options
        };
        let file = open_file(path, options).map_err(|error| uncreated(path, &error))?;
        crate::sys::lock(file.file(), true, false).map_err(|mode| {
            Failure::new(format!("Failed to get {mode} lock"))
                .hint(format!("Is another process using the image [{path}]?"))
        })?;
        if file.grows_with_zeroes() {
            file.set_len(0).map_err(|error| uncreated(path, &error))?;
            made.push(path.into());
        }
        return Ok(Arc::new(file));
    }
    match FileStorage::open(Path::new(path), options) {
        Ok(file) => {
            made.push(path.into());
            Ok(Arc::new(file))
        }
        Err(error) => Err(uncreated(path, &error)),
    }
}

fn uncreated(path: &str, error: &io::Error) -> Failure {
    Failure::new(format!(
        "Could not create '{path}': {}",
        errno_text(io_errno(error))
    ))
}

fn size(values: &Values) -> u64 {
    values.number("size").unwrap_or(0)
}

fn preallocation(values: &Values) -> Outcome<Preallocation> {
    match values.text("preallocation") {
        None => Ok(Preallocation::Off),
        Some(name) => crate::img::preallocation(name).map_err(|_| {
            Failure::new(format!(
                "Parameter 'preallocation' does not accept value '{name}'"
            ))
        }),
    }
}

fn raw(path: &str, values: &Values, made: &mut Vec<String>) -> Outcome<()> {
    let mode = preallocation(values)?;
    if mode == Preallocation::Metadata {
        fail!("Unsupported preallocation mode 'metadata'");
    }
    let there = Path::new(path).exists();
    let file = new_file(path, made)?;
    if there {
        made.clear();
    }
    let size = size(values).next_multiple_of(512);
    if !file.grows_with_zeroes() && file.len().is_ok_and(|len| len < size) {
        fail!("Cannot grow device files");
    }
    resize_raw(&*file, size, mode)
        .map_err(|error| Failure::new(format!("Could not resize file: {}", words(&error))))
}

/// Changes the size of a raw file; what is new may get its space at once.
pub(super) fn resize_raw(
    file: &dyn Storage,
    size: u64,
    mode: Preallocation,
) -> strata_qcow2::Result<()> {
    let old = file
        .len()
        .map_err(|source| io_error("get the length of", source))?;
    let grown = size.saturating_sub(old);
    let done = match mode {
        _ if old == size => Ok(()),
        Preallocation::Metadata => {
            return Err(Error::Unsupported(
                "Unsupported preallocation mode 'metadata'".into(),
            ));
        }
        Preallocation::Falloc if grown > 0 => file.allocate(old, grown),
        Preallocation::Full if grown > 0 => {
            write_zeroes(file, old, grown).and_then(|()| file.flush())
        }
        _ => file.set_len(size).and_then(|()| match old {
            // QEMU gives a new file its first block, so that scripts see the same space taken.
            0 => write_zeroes(file, 0, if size < 4096 { 512 } else { 4096 }),
            _ => Ok(()),
        }),
    };
    done.map_err(|source| io_error("resize", source))
}

fn io_error(action: &'static str, source: io::Error) -> Error {
    Error::Io {
        action,
        offset: 0,
        length: 0,
        source,
    }
}

fn write_zeroes(file: &dyn Storage, offset: u64, length: u64) -> io::Result<()> {
    let zeroes = vec![0; 1 << 20];
    let mut at = offset;
    while at < offset + length {
        let count = (offset + length - at).min(zeroes.len() as u64) as usize;
        file.write_vectored_at(&[io::IoSlice::new(&zeroes[..count])], at)?;
        at += count as u64;
    }
    Ok(())
}

fn luks(path: &str, values: &Values, made: &mut Vec<String>) -> Outcome<()> {
    if values.switch("detached-header") == Some(true) {
        fail!("Detached LUKS headers are not supported");
    }
    let new = new_volume(values, "")?;
    let mode = preallocation(values)?;
    let file = new_file(path, made)?;
    let volume =
        Volume::create(&HeaderArea(&*file), &new.options, &new.passphrase).map_err(luks_failure)?;
    let end = size(values)
        .checked_next_multiple_of(512)
        .and_then(|size| size.checked_add(volume.payload_offset()))
        .ok_or_else(|| Failure::new("The requested file size is too large"))?;
    resize_raw(&*file, end, mode).map_err(|error| Failure::new(words(&error)))
}

fn qcow2(path: &str, values: &Values, made: &mut Vec<String>) -> Outcome<()> {
    let mut options = qcow2_options(values)?;
    match (values.text("backing_file"), values.text("backing_fmt")) {
        (_, Some("")) => fail!("Parameter 'backing-fmt' does not accept value ''"),
        (None | Some(""), Some(_)) => fail!("Backing format cannot be used without backing file"),
        _ => {}
    }
    if let Some(name) = values.text("data_file") {
        options.data_file = Some((name.to_owned(), new_file(local_path(name)?, made)?));
    }
    let file = new_file(path, made)?;
    options.create(&file).map_err(|error| match &error {
        Error::TooLarge { .. } => Failure::new(words(&error)).code(libc::EFBIG as u8),
        _ => Failure::new(words(&error)),
    })?;
    // A device may take every write and keep none.
    if !file.grows_with_zeroes() {
        Header::read(&*file).map_err(|error| Failure::new(words(&error)))?;
    }
    Ok(())
}

/// The creation options without the data file, checked in the order of qemu's checks.
///
/// # Errors
/// For values and combinations that cannot be.
pub fn qcow2_options(values: &Values) -> Outcome<CreateOptions> {
    let version = version(values.text("compat"))?;
    let compression = match values.text("compression_type") {
        None | Some("zlib") => CompressionType::Zlib,
        Some("zstd") => CompressionType::Zstd,
        Some(other) => fail!("Parameter 'compression-type' does not accept value '{other}'"),
    };
    let defaults = CreateOptions::default();
    let cluster_size = values
        .number("cluster_size")
        .unwrap_or(defaults.cluster_size);
    let refcount_bits = values.number("refcount_bits").unwrap_or(16);
    let luks = match (values.text("encrypt.format"), values.switch("encryption")) {
        (Some("luks"), _) => Some(new_volume(values, "encrypt.")?),
        (Some("aes"), _) | (None, Some(true)) => {
            fail!("The legacy AES encryption of qcow2 is not supported; use encrypt.format=luks")
        }
        (Some(other), _) => fail!("Parameter 'format' does not accept value '{other}'"),
        _ if values
            .given()
            .iter()
            .any(|(name, _)| name.starts_with("encrypt.")) =>
        {
            fail!("Parameter 'encrypt.format' is missing")
        }
        _ => None,
    };
    let options = CreateOptions {
        size: size(values),
        version,
        cluster_size,
        refcount_bits: u32::try_from(refcount_bits).unwrap_or(u32::MAX),
        lazy_refcounts: values.switch("lazy_refcounts").unwrap_or(false),
        extended_l2: values.switch("extended_l2").unwrap_or(false),
        compression,
        backing: values.text("backing_file").map(|name| {
            (
                name.to_owned(),
                values.text("backing_fmt").unwrap_or_default().to_owned(),
            )
        }),
        data_file: None,
        data_file_raw: values.switch("data_file_raw").unwrap_or(false),
        luks: luks.map(|luks| Arc::new(luks) as Arc<dyn strata_qcow2::Format>),
        preallocation: preallocation(values)?,
    };
    check(&options, values.text("data_file").is_some())?;
    Ok(options)
}

fn version(compat: Option<&str>) -> Outcome<u32> {
    match compat {
        None | Some("1.1" | "v3") => Ok(3),
        Some("0.10" | "v2") => Ok(2),
        Some(other) => fail!("Parameter 'version' does not accept value '{other}'"),
    }
}

fn check(options: &CreateOptions, data_file: bool) -> Outcome<()> {
    const V3: &str = "compatibility level 1.1 and above (use version=v3 or greater)";
    let old = options.version < 3;
    let size = options.cluster_size;
    if !size.is_power_of_two() || !(512..=2 << 20).contains(&size) {
        fail!("Cluster size must be a power of two between 512 and 2048k");
    }
    if options.extended_l2 {
        if old {
            fail!("Extended L2 entries are only supported with {V3}");
        }
        if size < 16384 {
            fail!(
                "Extended L2 entries are only supported with cluster sizes of at least 16384 bytes"
            );
        }
    }
    if options.backing.is_some()
        && options.preallocation != Preallocation::Off
        && !options.extended_l2
    {
        fail!(
            "Backing file and preallocation can only be used at the same time if extended_l2 is \
             on"
        );
    }
    if options.lazy_refcounts && old {
        fail!("Lazy refcounts only supported with {V3}");
    }
    if !options.refcount_bits.is_power_of_two() || options.refcount_bits > 64 {
        fail!("Refcount width must be a power of two and may not exceed 64 bits");
    }
    if options.refcount_bits != 16 && old {
        fail!(
            "Different refcount widths than 16 bits require compatibility level 1.1 or above \
             (use version=v3 or greater)"
        );
    }
    if options.data_file_raw && !data_file {
        fail!("data-file-raw requires data-file");
    }
    if options.data_file_raw && options.backing.is_some() {
        fail!("Backing file and data-file-raw cannot be used at the same time");
    }
    if data_file && old {
        fail!("External data files are only supported with {V3}");
    }
    if options.compression != CompressionType::Zlib && old {
        fail!("Non-zlib compression type is only supported with {V3}");
    }
    Ok(())
}

/// The creation of an image as `create` and `convert` ask for it.
pub struct Creation<'a> {
    /// The new image's name.
    pub name: &'a str,
    /// Its format.
    pub format: Format,
    /// Do not open the backing file.
    pub unsafe_backing: bool,
    /// Print nothing.
    pub quiet: bool,
}

impl Creation<'_> {
    /// Completes `values` from the backing file, says what is made, and makes it.
    ///
    /// # Errors
    /// In qemu's words.
    pub fn run(&self, values: &mut Values) -> Outcome<()> {
        self.check_backing(values)?;
        if values.text("size").is_none() {
            fail!("Image creation needs a size parameter");
        }
        if !self.quiet {
            crate::out!("Formatting '{}', fmt={} ", self.name, self.format.name());
            values.print();
            crate::out!("\n");
            crate::report::flush();
        }
        create(self.name, self.format, values).map_err(|failure| {
            if failure.code != libc::EFBIG as u8 {
                return failure;
            }
            let hint = match values.number("cluster_size") {
                Some(_) => " (try using a larger cluster size)",
                None if values.knows("cluster_size") => " (try using a larger cluster size)",
                None => "",
            };
            let format = self.format.name();
            Failure::new(format!(
                "The image size is too large for file format '{format}'{hint}"
            ))
        })
    }

    fn check_backing(&self, values: &mut Values) -> Outcome<()> {
        let Some(backing) = values.text("backing_file").map(str::to_owned) else {
            return Ok(());
        };
        if backing == self.name {
            fail!("Error: Trying to create an image with the same filename as the backing file");
        }
        if backing.is_empty() {
            fail!("Expected backing file name, got empty string");
        }
        let format = values.text("backing_fmt").map(str::to_owned);
        if self.unsafe_backing {
            if format.is_none() {
                fail!("Backing file specified without backing format");
            }
            return Ok(());
        }
        let full = full_backing_name(self.name, &backing)?;
        let flags = Flags {
            no_io: true,
            force_share: true,
            ..Flags::read()
        };
        let disk = super::open_name(&full, format.as_deref(), flags)
            .map_err(|failure| failure.hint("Could not open backing image."))?;
        if format.is_none() {
            return Err(
                Failure::new("Backing file specified without backing format")
                    .hint(format!("Detected format of {}.", disk.format.name())),
            );
        }
        if values.text("size").is_none() {
            values.set("size", &disk.size().to_string())?;
        }
        Ok(())
    }
}
