//! A storage that lets others act in the midst of an operation.

use std::io::{self, IoSlice, IoSliceMut};
use std::sync::{Arc, OnceLock};

use strata_qcow2::Storage;

type Hook = Box<dyn Fn() + Send + Sync>;

/// A storage that calls a hook before each of its writes and flushes, on the thread that does it.
pub(crate) struct Hooked {
    inner: Arc<dyn Storage>,
    hook: OnceLock<Hook>,
}

impl Hooked {
    pub(crate) fn new(inner: Arc<dyn Storage>) -> Self {
        Self {
            inner,
            hook: OnceLock::new(),
        }
    }

    /// Calls `hook` from now on.
    pub(crate) fn set(&self, hook: impl Fn() + Send + Sync + 'static) {
        assert!(self.hook.set(Box::new(hook)).is_ok());
    }

    fn call(&self) {
        if let Some(hook) = self.hook.get() {
            hook();
        }
    }
}

impl Storage for Hooked {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.inner.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.call();
        self.inner.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.call();
        self.inner.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }
}
