//! Scenarios whose operations come in any order.

use strata_qcow2::{CreateOptions, Preallocation};

use super::Step::{Apply, Compress, Create, Delete, Discard, Flush, Reopen, Resize, Write, Zero};
use super::list::{K, options, scenario};
use super::{Scenario, Step};
use crate::common::Random;

/// Operations in an order that nobody thought of.
fn random_steps(seed: u64, size: u64, cluster: u64, resize: bool) -> Vec<Step> {
    let mut random = Random(seed);
    let (mut size, mut snapshots) = (size, Vec::new());
    let names = ["one", "two", "three"];
    let mut list = Vec::new();
    for number in 0..40u8 {
        let at = random.below(size);
        let length = (1 + random.below(9 * K)).min(size - at);
        let free = names
            .into_iter()
            .find(|name| snapshots.iter().all(|(other, _)| other != name));
        list.push(match random.below(20) {
            0..=6 => Write(at, length, number),
            7 => Zero(at, length, true),
            8 => Zero(at, length, false),
            9 | 10 => Discard(at, length * 3 % (size - at + 1)),
            11 | 12 => Compress(at - at % cluster, number),
            13 if resize => {
                size = (1 + random.below(140)) * 512;
                Resize(size, Preallocation::Off)
            }
            14 if free.is_some() => {
                snapshots.push((free.unwrap(), size));
                Create(free.unwrap())
            }
            15 if !snapshots.is_empty() => {
                let pick = random.below(snapshots.len() as u64) as usize;
                size = snapshots[pick].1;
                Apply(snapshots[pick].0)
            }
            16 if !snapshots.is_empty() => {
                let pick = random.below(snapshots.len() as u64) as usize;
                Delete(snapshots.remove(pick).0)
            }
            17 => Reopen,
            _ => Flush,
        });
    }
    list.push(Flush);
    list
}

/// One list of random operations, or twenty, for each shape of image.
pub(super) fn random() -> Vec<Scenario> {
    let long = std::env::var_os("STRATA_TEST_LONG").is_some();
    let shapes = [
        options(48 * K, 1024),
        CreateOptions {
            version: 2,
            ..options(48 * K, 1024)
        },
        options(48 * K, 512),
        options(48 * K, 4096),
        CreateOptions {
            extended_l2: true,
            ..options(96 * K, 16 * K)
        },
        CreateOptions {
            lazy_refcounts: true,
            ..options(48 * K, 1024)
        },
        CreateOptions {
            refcount_bits: 64,
            ..options(48 * K, 512)
        },
    ];
    let mut list = Vec::new();
    for (number, options) in shapes.into_iter().enumerate() {
        for seed in 0..if long { 20 } else { 1 } {
            let seed = seed * 10 + number as u64;
            // A header of 512 bytes has no room for a base's name.
            let base =
                [0, 40 * K][usize::from(seed.is_multiple_of(2) && options.cluster_size > 512)];
            // When a disk above a base is cut off, what lies below may show for a moment.
            // Version 2 can not be resized with snapshots.
            let resize = base == 0 && options.version > 2;
            let steps = random_steps(seed, options.size, options.cluster_size, resize);
            list.push(Scenario {
                base,
                steps,
                ..scenario("random", options.clone())
            });
        }
    }
    list
}
