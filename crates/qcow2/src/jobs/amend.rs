//! Changing the options of an image that exists.

use std::sync::atomic::Ordering;

use crate::create::Preallocation;
use crate::error::{Error, Result};
use crate::format::extension;
use crate::format::{Autoclear, Compatible, Incompatible, feature};
use crate::image::Image;
use crate::image::state::State;
use crate::snapshot::Snapshot;

/// What to change; None leaves an option as it is.
#[derive(Debug, Clone, Default)]
pub struct AmendOptions {
    /// 2 or 3.
    pub version: Option<u32>,
    /// Put refcount updates off.
    pub lazy_refcounts: Option<bool>,
    /// Width of refcounts in bits. The image must be opened anew afterwards.
    pub refcount_bits: Option<u32>,
    /// Size of the disk in bytes.
    pub size: Option<u64>,
    /// Keep the external data file readable as a raw image.
    pub data_file_raw: Option<bool>,
    /// The external data file's name.
    pub data_file: Option<String>,
}

impl Image {
    /// Changes options of the image.
    ///
    /// # Errors
    /// [`Error::Unsupported`] or [`Error::Invalid`] for what the image can not become, before
    /// anything changes; else as [`Image::write_at`].
    pub fn amend(&self, options: &AmendOptions) -> Result<()> {
        if options.version == Some(3) {
            self.upgrade()?;
        }
        if let Some(lazy) = options.lazy_refcounts {
            self.set_lazy_refcounts(lazy, options.version)?;
        }
        if options.data_file_raw.is_some() || options.data_file.is_some() {
            self.amend_data_file(options)?;
        }
        if let Some(size) = options.size {
            self.resize(size, Preallocation::Off)?;
        }
        if options.version == Some(2) {
            self.downgrade(options.refcount_bits)?;
        }
        if let Some(bits) = options.refcount_bits {
            self.change_refcount_bits(bits)?;
        }
        Ok(())
    }

    fn upgrade(&self) -> Result<()> {
        let _held = self.hold_size();
        let mut state = self.lock_alone()?;
        if state.header.version == 2 {
            self.sync(&mut state)?;
            let list = crate::snapshot::read_table(&*self.file, &state.header)?.0;
            let names = feature::has_room_for_names(&self.geometry).then(feature::name_table);
            // Version 3 wants sizes in the snapshot table that version 2 may leave out.
            self.commit_table(&mut state, &list, |header| {
                header.version = 3;
                extension::set(&mut header.extensions, extension::FEATURE_NAMES, names);
            })?;
        }
        Ok(())
    }

    fn set_lazy_refcounts(&self, lazy: bool, version: Option<u32>) -> Result<()> {
        let mut state = self.lock_alone()?;
        if lazy && (state.header.version < 3 || version == Some(2)) {
            return Err(Error::Invalid(
                "Lazy refcounts only supported with compatibility level 1.1 and above (use \
                 compat=1.1 or greater)"
                    .into(),
            ));
        }
        // Refcounts must be on the disk before the image says that they are.
        let was_lazy = state.lazy;
        state.lazy &= lazy;
        if let Err(error) = self.sync(&mut state) {
            state.lazy = was_lazy;
            return Err(error);
        }
        let flag = Compatible::LAZY_REFCOUNTS;
        let features = state.header.compatible;
        state.header.compatible = if lazy {
            features.with(flag)
        } else {
            features.without(flag)
        };
        if lazy && !was_lazy {
            // The next write marks the image dirty first.
            state.prepared = false;
            self.ready.store(false, Ordering::Release);
        } else if was_lazy && !lazy {
            state.header.incompatible = state.header.incompatible.without(Incompatible::DIRTY);
        }
        self.or_break(
            self.write_header(&mut state)
                .and_then(|()| self.file.sync()),
        )
    }

    fn amend_data_file(&self, options: &AmendOptions) -> Result<()> {
        if !self.geometry.data_file {
            return Err(Error::Invalid(
                "data-file can only be set for images that use an external data file".into(),
            ));
        }
        let mut state = self.lock_alone()?;
        self.sync(&mut state)?;
        if let Some(raw) = options.data_file_raw {
            if raw && !state.header.autoclear.has(Autoclear::DATA_FILE_RAW) {
                return Err(Error::Invalid(
                    "data-file-raw cannot be set on existing images".into(),
                ));
            }
            if !raw {
                state.header.autoclear = state.header.autoclear.without(Autoclear::DATA_FILE_RAW);
            }
        }
        if let Some(name) = &options.data_file {
            let data = (!name.is_empty()).then(|| name.clone().into_bytes());
            extension::set(&mut state.header.extensions, extension::DATA_FILE, data);
        }
        self.or_break(
            self.write_header(&mut state)
                .and_then(|()| self.file.sync()),
        )
    }

    fn downgrade(&self, refcount_bits: Option<u32>) -> Result<()> {
        // Whoever zeroes or discards holds the size, and goes by the version until the end.
        let _alone = self.lock_size();
        let mut state = self.lock_alone()?;
        let header = &state.header;
        if header.version == 2 {
            return Ok(());
        }
        let unsupported = |text: &str| Err(Error::Unsupported(text.into()));
        if self.geometry.refcount_order != 4 && refcount_bits != Some(16) {
            return unsupported("compat=0.10 requires refcount_bits=16");
        }
        let features = header.incompatible.without(Incompatible::DIRTY).0;
        if features != 0 {
            return unsupported(&format!(
                "Cannot downgrade an image with incompatible features {features:#x} set"
            ));
        }
        let snapshots = crate::snapshot::read_table(&*self.file, header)?.0;
        snapshots
            .iter()
            .try_for_each(|snapshot| snapshot.check_table(&self.geometry))?;
        // Version 2 has places for neither.
        let plain = |snapshot: &Snapshot| {
            snapshot.vm_state_size <= u64::from(u32::MAX)
                && snapshot.disk_size.is_none_or(|size| size == self.size())
        };
        if !snapshots.iter().all(plain) {
            return unsupported("Internal snapshots prevent downgrade of image");
        }
        let lazy = state.lazy;
        if let Err(error) = self.expand_all_zeroes(&mut state, &snapshots) {
            state.lazy = lazy;
            return Err(error);
        }
        let header = &mut state.header;
        header.version = 2;
        header.incompatible = Incompatible(0);
        header.compatible = Compatible(0);
        header.autoclear = Autoclear(0);
        header.unknown_fields.clear();
        extension::set(&mut header.extensions, extension::FEATURE_NAMES, None);
        extension::set(&mut header.extensions, extension::BITMAPS, None);
        self.or_break(
            self.write_header(&mut state)
                .and_then(|()| self.file.sync()),
        )
    }

    /// Rewrites all zero flags, and makes everything durable.
    fn expand_all_zeroes(&self, state: &mut State, snapshots: &[Snapshot]) -> Result<()> {
        self.expand_zeroes(state)?;
        state.lazy = false;
        self.sync_all(state)?;
        if snapshots.is_empty() {
            return Ok(());
        }
        self.mark_dirty(state)?;
        let done = self
            .expand_inactive_zeroes(state, snapshots)
            .and_then(|()| self.restore_flags(state))
            .and_then(|()| self.sync_all(state));
        self.or_break(done)
    }

    fn change_refcount_bits(&self, bits: u32) -> Result<()> {
        if !bits.is_power_of_two() || bits > 64 {
            return Err(Error::Invalid(
                "Refcount width must be a power of two and may not exceed 64 bits".into(),
            ));
        }
        let order = bits.trailing_zeros();
        if order == self.geometry.refcount_order {
            return Ok(());
        }
        let mut state = self.lock_alone()?;
        if state.header.version < 3 && bits != 16 {
            return Err(Error::Invalid(
                "Refcount bits other than 16 need compatibility level 1.1".into(),
            ));
        }
        self.settle(&mut state)?;
        self.rewrite_refcounts(&mut state, order)
    }
}
