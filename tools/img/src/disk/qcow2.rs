//! The open options that only qcow2 has.

use strata_qcow2::OpenOptions;

use super::options::Options;
use crate::fail;
use crate::report::Outcome;

/// Options that tune QEMU's caches and checks; the image reads the same without them.
const TUNING: [&str; 6] = [
    "cache-clean-interval",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
];

/// Takes qcow2's own options out.
///
/// # Errors
/// For values of the wrong type.
pub(super) fn take_options(options: &mut Options, cluster: u64) -> Outcome<OpenOptions> {
    let mut open = OpenOptions::default();
    if let Some(size) = l2_cache(options, cluster)? {
        open.l2_cache = size;
    }
    for name in TUNING {
        options.take(name);
    }
    open.lazy_refcounts = options.take_switch("lazy-refcounts")?;
    let checks = options.take_below("overlap-check");
    if let Some(value) = checks.get("inactive-l2") {
        open.check_inactive_l2 = crate::options::switch("overlap-check.inactive-l2", value)?;
    }
    Ok(open)
}

/// The size of the L2 cache, as the three cache sizes and the entry size give it.
fn l2_cache(options: &mut Options, cluster: u64) -> Outcome<Option<u64>> {
    let total = options.take_size("cache-size")?;
    let l2 = options.take_size("l2-cache-size")?;
    let refcounts = options.take_size("refcount-cache-size")?;
    let entry = options.take_size("l2-cache-entry-size")?.unwrap_or(cluster);
    if let Some(total) = total {
        if l2.is_some() && refcounts.is_some() {
            fail!(
                "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time"
            );
        }
        if l2.is_some_and(|l2| l2 > total) {
            fail!("l2-cache-size may not exceed cache-size");
        }
        if refcounts.is_some_and(|refcounts| refcounts > total) {
            fail!("refcount-cache-size may not exceed cache-size");
        }
    }
    if !entry.is_power_of_two() || !(512..=cluster).contains(&entry) {
        fail!(
            "L2 cache entry size must be a power of two between 512 and the cluster size \
             ({cluster})"
        );
    }
    Ok(l2.or_else(|| total.map(|total| total - refcounts.unwrap_or(0))))
}
