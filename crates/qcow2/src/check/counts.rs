//! How often each host cluster is referred to.

use std::collections::HashMap;

/// Clusters counted in one array; its untouched parts take no memory.
const DENSE: u64 = 1 << 28;
/// An active entry refers to the cluster with COPIED set.
const CLAIMED: u32 = 1 << 31;
/// An active entry refers to it without.
const UNCLAIMED: u32 = 1 << 30;
const COUNT: u32 = UNCLAIMED - 1;

/// What an active table entry says about its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Copied,
    Shared,
    /// The entry has no COPIED flag of meaning.
    None,
}

pub(crate) struct Counts {
    dense: Vec<u32>,
    sparse: HashMap<u64, u32>,
}

impl Counts {
    pub(super) fn new(clusters: u64) -> Self {
        Self {
            dense: vec![0; clusters.min(DENSE) as usize],
            sparse: HashMap::new(),
        }
    }

    fn raw(&self, cluster: u64) -> u32 {
        match self.dense.get(cluster as usize) {
            Some(&count) => count,
            None => self.sparse.get(&cluster).copied().unwrap_or(0),
        }
    }

    pub(crate) fn add(&mut self, cluster: u64, claim: Claim) {
        let count = match self.dense.get_mut(cluster as usize) {
            Some(count) => count,
            None => self.sparse.entry(cluster).or_default(),
        };
        if *count & COUNT < COUNT {
            *count += 1;
        }
        match claim {
            Claim::Copied => *count |= CLAIMED,
            Claim::Shared => *count |= UNCLAIMED,
            Claim::None => {}
        }
    }

    /// Takes one reference back.
    pub(crate) fn remove(&mut self, cluster: u64) {
        let count = match self.dense.get_mut(cluster as usize) {
            Some(count) => Some(count),
            None => self.sparse.get_mut(&cluster),
        };
        if let Some(count) = count.filter(|count| **count & COUNT > 0) {
            *count -= 1;
        }
    }

    pub(crate) fn get(&self, cluster: u64) -> u64 {
        u64::from(self.raw(cluster) & COUNT)
    }

    /// Whether an active entry's COPIED flag disagrees with a refcount.
    pub(super) fn flag_is_wrong(&self, cluster: u64, refcount: u64) -> bool {
        let raw = self.raw(cluster);
        raw & CLAIMED != 0 && refcount != 1 || raw & UNCLAIMED != 0 && refcount == 1
    }

    /// One more than the last cluster with a reference.
    pub(super) fn end(&self) -> u64 {
        let sparse = self.sparse.keys().max().map(|last| last + 1);
        sparse.unwrap_or_else(|| {
            self.dense
                .iter()
                .rposition(|&count| count != 0)
                .map_or(0, |last| last as u64 + 1)
        })
    }
}
