//! Device configuration space (virtio 1.2 §5.1.4), as the driver reads it.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use strata_virtio::ConfigInterrupt;

use crate::MacAddr;

/// VIRTIO_NET_S_LINK_UP and VIRTIO_NET_S_ANNOUNCE.
const LINK_UP: u16 = 1;
const ANNOUNCE: u16 = 2;

/// What can change while the driver looks. Workers read it without a lock.
#[derive(Debug)]
pub(super) struct Config {
    /// The six bytes in the low end.
    mac: AtomicU64,
    /// The address that the card was made with.
    own_mac: MacAddr,
    link_up: AtomicBool,
    announce: AtomicBool,
    max_pairs: u16,
    mtu: u16,
    /// Taken only to tell the driver of a change.
    pub(super) changed: Mutex<Option<ConfigInterrupt>>,
}

impl Config {
    pub(super) fn new(mac: MacAddr, max_pairs: u16, mtu: u16) -> Self {
        let config = Self {
            mac: AtomicU64::new(0),
            own_mac: mac,
            link_up: AtomicBool::new(true),
            announce: AtomicBool::new(false),
            max_pairs,
            mtu,
            changed: Mutex::new(None),
        };
        config.set_mac(mac.bytes());
        config
    }

    pub(super) fn attach(&self, change: ConfigInterrupt) {
        *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = Some(change);
    }

    fn change(&self, set: impl FnOnce()) {
        match &*self.changed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(change) => change.change(set),
            None => set(),
        }
    }

    pub(super) fn max_pairs(&self) -> u16 {
        self.max_pairs
    }

    pub(super) fn mtu(&self) -> u16 {
        self.mtu
    }

    pub(super) fn mac(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.mac.load(Ordering::Relaxed).to_le_bytes();
        [a, b, c, d, e, f]
    }

    pub(super) fn set_mac(&self, [a, b, c, d, e, f]: [u8; 6]) {
        let value = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
        self.mac.store(value, Ordering::Relaxed);
    }

    pub(super) fn is_link_up(&self) -> bool {
        self.link_up.load(Ordering::Relaxed)
    }

    pub(super) fn set_link(&self, up: bool) {
        if self.is_link_up() != up {
            self.change(|| self.link_up.store(up, Ordering::Relaxed));
        }
    }

    /// Asks the driver to tell the network where it is.
    pub(super) fn ask_to_announce(&self) {
        self.change(|| self.announce.store(true, Ordering::Relaxed));
    }

    /// The driver has done so.
    pub(super) fn announced(&self) {
        self.announce.store(false, Ordering::Relaxed);
    }

    /// Nothing is left of what a driver has set: the next one finds the card as it was made.
    pub(super) fn reset(&self) {
        self.announced();
        self.set_mac(self.own_mac.bytes());
    }

    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let up = if self.is_link_up() { LINK_UP } else { 0 };
        let announce = if self.announce.load(Ordering::Relaxed) {
            ANNOUNCE
        } else {
            0
        };
        let mut space = [0; 12];
        let fields: [&[u8]; 4] = [
            &self.mac(),
            &(up | announce).to_le_bytes(),
            &self.max_pairs.to_le_bytes(),
            &self.mtu.to_le_bytes(),
        ];
        for (to, from) in space.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        let from = usize::try_from(offset)
            .ok()
            .and_then(|offset| space.get(offset..));
        for (to, from) in data.iter_mut().zip(from.unwrap_or_default()) {
            *to = *from;
        }
    }
}
