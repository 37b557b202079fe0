//! The open options that only qcow2 has.

use strata_qcow2::OpenOptions;

use super::options::Options;
use crate::fail;
use crate::report::Outcome;

/// Options that tune QEMU's caches and checks; the image reads the same without them.
const TUNING: [&str; 5] = [
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
    open.lazy_refcounts = options.take_switch("lazy-refcounts")?;
    check_overlap(options)?;
    let interval = options.take("cache-clean-interval");
    if interval.is_some_and(|seconds| seconds.parse::<u32>().is_err()) {
        fail!("Cache clean interval too big");
    }
    for name in TUNING {
        options.take(name);
    }
    let checks = options.take_below("overlap-check");
    if let Some(value) = checks.get("inactive-l2") {
        open.check_inactive_l2 = crate::options::switch("overlap-check.inactive-l2", value)?;
    }
    Ok(open)
}

/// Makes sure that the set of overlap checks has a name; all of them are always made.
fn check_overlap(options: &Options) -> Outcome<()> {
    let template = options.get("overlap-check.template");
    let short = options.get("overlap-check");
    if let (Some(short), Some(template)) = (short, template)
        && short != template
    {
        fail!(
            "Conflicting values for qcow2 options 'overlap-check' ('{short}') and \
             'overlap-check.template' ('{template}')"
        );
    }
    match short.or(template) {
        None | Some("none" | "constant" | "cached" | "all") => Ok(()),
        Some(other) => fail!(
            "Unsupported value '{other}' for qcow2 option 'overlap-check'. Allowed are any of \
             the following: none, constant, cached, all"
        ),
    }
}

/// Leaves out of `options` what the new options among `given` put out of force.
pub fn outdate(options: &mut Options, given: &[(String, String)]) {
    let is_given = |name: &str| given.iter().any(|(given, _)| given == name);
    if is_given("overlap-check") || is_given("overlap-check.template") {
        options.take("overlap-check");
        options.take_below("overlap-check");
    }
    let parts = ["l2-cache-size", "refcount-cache-size"];
    if is_given("cache-size") {
        for part in parts {
            options.take(part);
        }
    } else if parts
        .iter()
        .all(|part| is_given(part) || options.get(part).is_some())
    {
        // Two parts give the sum.
        options.take("cache-size");
    }
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
    let entries = |bytes: Option<u64>, entry| bytes.unwrap_or(0).div_ceil(entry);
    for (name, count) in [
        ("L2", entries(l2.or(total), entry)),
        ("Refcount", entries(refcounts, cluster)),
    ] {
        if count > i32::MAX as u64 {
            fail!("{name} cache size too big");
        }
    }
    Ok(l2.or_else(|| total.map(|total| total - refcounts.unwrap_or(0))))
}
