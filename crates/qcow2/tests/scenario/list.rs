//! The scenarios that crash and fault tests share: every operation that changes an image.

use strata_qcow2::{CompressionType, CreateOptions, Preallocation};

use super::Scenario;
use super::Step::{
    AddBitmap, Apply, Commit, Compress, Create, Delete, Discard, Empty, Flush, Lazy, Rebase,
    RefcountBits, RemoveBitmap, Reopen, Repair, Resize, Version, VmState, Write, Zero,
};
use super::random::random;

pub(super) const K: u64 = 1024;

pub(super) fn options(size: u64, cluster_size: u64) -> CreateOptions {
    CreateOptions {
        size,
        cluster_size,
        ..CreateOptions::default()
    }
}

/// Writes all over a disk of 48 KiB, in parts that share clusters.
fn some_writes() -> Vec<super::Step> {
    vec![
        Write(0, 9 * K, 10),
        Write(12 * K + 300, 5 * K, 40),
        Write(30 * K, 700, 90),
        Write(40 * K, 8 * K, 120),
    ]
}

pub(super) fn scenario(name: &'static str, options: CreateOptions) -> Scenario {
    Scenario {
        name,
        options,
        base: 0,
        data_file: false,
        before: vec![],
        steps: vec![],
    }
}

fn plain() -> Vec<Scenario> {
    let writes = vec![
        Write(0, 3 * K, 1),
        Write(5 * K + 100, 1000, 20),
        Flush,
        Write(5 * K, 4 * K, 50),
        Write(K, 600, 80),
        Write(33 * K, 2 * K, 110),
        Flush,
        Write(0, 16 * K, 140),
        Flush,
        Write(20 * K, 100, 170),
        Reopen,
        Write(20 * K + 50, 100, 190),
        Flush,
    ];
    let discards = vec![
        Discard(0, 4 * K),
        Write(2 * K, 2 * K, 7),
        Flush,
        Write(20 * K, 4 * K, 9),
        Zero(12 * K, 3 * K + 100, true),
        Flush,
        Zero(40 * K, 4 * K, false),
        Write(41 * K, 300, 60),
        Discard(40 * K, 2 * K),
        Write(25 * K, 6 * K, 61),
        Flush,
        Write(0, 8 * K, 62),
        Flush,
    ];
    let shapes = [
        ("version 3", options(48 * K, 1024)),
        ("clusters of 512", options(48 * K, 512)),
        (
            "version 2",
            CreateOptions {
                version: 2,
                ..options(48 * K, 1024)
            },
        ),
        (
            "refcounts of 64 bits",
            CreateOptions {
                refcount_bits: 64,
                ..options(48 * K, 512)
            },
        ),
        (
            "refcounts of 1 bit",
            CreateOptions {
                refcount_bits: 1,
                ..options(48 * K, 512)
            },
        ),
        (
            "subclusters",
            CreateOptions {
                extended_l2: true,
                ..options(96 * K, 16 * K)
            },
        ),
        (
            "lazy refcounts",
            CreateOptions {
                lazy_refcounts: true,
                ..options(48 * K, 1024)
            },
        ),
        (
            "preallocated",
            CreateOptions {
                preallocation: Preallocation::Metadata,
                ..options(48 * K, 1024)
            },
        ),
    ];
    let mut list = Vec::new();
    for (name, options) in shapes {
        list.push(Scenario {
            steps: writes.clone(),
            ..scenario(name, options.clone())
        });
        list.push(Scenario {
            before: some_writes(),
            steps: discards.clone(),
            ..scenario(name, options)
        });
    }
    list
}

fn compressed() -> Vec<Scenario> {
    let steps = vec![
        Compress(0, 3),
        Compress(4 * K, 5),
        Flush,
        Write(4 * K + 10, 100, 9),
        Compress(8 * K, 7),
        Flush,
        Discard(0, 4 * K),
        Compress(12 * K, 8),
        Flush,
        Create("one"),
        Compress(16 * K, 12),
        Write(8 * K, 4 * K, 13),
        Flush,
        Delete("one"),
        Compress(0, 99),
        Flush,
    ];
    let zstd = CompressionType::Zstd;
    [
        ("compressed", options(48 * K, 4096)),
        (
            "compressed by zstd",
            CreateOptions {
                compression: zstd,
                ..options(48 * K, 4096)
            },
        ),
        (
            "compressed, version 2",
            CreateOptions {
                version: 2,
                ..options(48 * K, 4096)
            },
        ),
    ]
    .into_iter()
    .map(|(name, options)| Scenario {
        steps: steps.clone(),
        ..scenario(name, options)
    })
    .collect()
}

fn snapshots() -> Vec<Scenario> {
    let steps = vec![
        Create("one"),
        Write(K, 4 * K, 21),
        Flush,
        Write(12 * K, 300, 22),
        Create("two"),
        Write(0, 2 * K, 23),
        Discard(40 * K, 4 * K),
        Flush,
        Apply("one"),
        Write(6 * K, 3 * K, 24),
        Zero(0, 2 * K, true),
        Flush,
        Delete("two"),
        Write(13 * K, 2 * K, 25),
        Flush,
        Apply("one"),
        Delete("one"),
        Write(2 * K, 2 * K, 26),
        Flush,
    ];
    let sized = vec![
        Create("small"),
        Resize(70 * K, Preallocation::Off),
        Write(60 * K, 4 * K, 31),
        Flush,
        Create("large"),
        Apply("small"),
        Write(0, 2 * K, 33),
        Flush,
        Apply("large"),
        Delete("small"),
    ];
    let state = vec![
        VmState(3 * K, 5),
        Create("machine"),
        Write(0, 3 * K, 8),
        Flush,
        Delete("machine"),
    ];
    let lazy = CreateOptions {
        lazy_refcounts: true,
        ..options(48 * K, 1024)
    };
    let sub = CreateOptions {
        extended_l2: true,
        ..options(96 * K, 16 * K)
    };
    let old = CreateOptions {
        version: 2,
        ..options(48 * K, 1024)
    };
    let small = CreateOptions {
        cluster_size: 512,
        ..old.clone()
    };
    let wide = CreateOptions {
        refcount_bits: 8,
        ..options(48 * K, 512)
    };
    let with = |name, options, steps: &Vec<_>| Scenario {
        before: some_writes(),
        steps: steps.clone(),
        ..scenario(name, options)
    };
    vec![
        with("snapshots", options(48 * K, 1024), &steps),
        with("snapshots, clusters of 512", wide, &steps),
        with("snapshots, version 2", old.clone(), &steps),
        with("machine state, version 2", old.clone(), &state),
        with("snapshots, version 2, tables of 512", small, &steps),
        with("snapshots, lazy refcounts", lazy, &steps),
        with("snapshots, subclusters", sub, &steps),
        with("snapshots of two sizes", options(48 * K, 512), &sized),
        with("machine state", options(48 * K, 1024), &state),
    ]
}

fn sizes() -> Vec<Scenario> {
    let steps = vec![
        Resize(100 * K, Preallocation::Off),
        Write(90 * K, 4 * K, 2),
        Resize(30 * K + 512, Preallocation::Off),
        Write(30 * K, 512, 3),
        Flush,
        Resize(47 * K, Preallocation::Metadata),
        Write(46 * K, K, 4),
        Flush,
        Resize(60 * K, Preallocation::Full),
    ];
    // Past 2 MiB, the L1 table of clusters of 512 bytes needs a second cluster.
    let long = vec![
        Resize(3 << 20, Preallocation::Off),
        Write((3 << 20) - 4 * K, 4 * K, 9),
        Flush,
        Resize(20 * K, Preallocation::Off),
        Write(19 * K, K, 10),
        Flush,
    ];
    let full = CreateOptions {
        refcount_bits: 64,
        ..options(2200 * K, 512)
    };
    vec![
        Scenario {
            before: some_writes(),
            steps: steps.clone(),
            ..scenario("resize", options(48 * K, 1024))
        },
        Scenario {
            before: some_writes(),
            steps: steps.clone(),
            ..scenario(
                "resize, version 2",
                CreateOptions {
                    version: 2,
                    ..options(48 * K, 1024)
                },
            )
        },
        Scenario {
            before: some_writes(),
            steps: long,
            ..scenario("L1 growth", options(48 * K, 512))
        },
        Scenario {
            before: vec![Write(0, 1890 * K, 1)],
            steps: vec![
                Write(1890 * K, 128 * K, 5),
                Flush,
                Write(2100 * K, 10 * K, 6),
                Flush,
            ],
            ..scenario("refcount table growth", full)
        },
    ]
}

fn jobs() -> Vec<Scenario> {
    let above = |name, steps: &[_]| Scenario {
        base: 40 * K,
        before: vec![
            Write(3 * K, 5 * K, 10),
            Zero(20 * K, 2 * K, true),
            Write(39 * K, 3 * K, 70),
        ],
        steps: steps.to_vec(),
        ..scenario(name, options(48 * K, 2048))
    };
    let writes = [
        Write(100, 700, 5),
        Write(12 * K, 3 * K, 6),
        Flush,
        Discard(0, 8 * K),
        Zero(30 * K, 5 * K + 20, false),
        Flush,
        Create("one"),
        Write(31 * K, 512, 9),
        Flush,
        Apply("one"),
        Write(38 * K, 3 * K, 10),
        Flush,
    ];
    vec![
        above("backing", &writes),
        above(
            "commit",
            &[
                Write(9 * K, 2 * K, 80),
                Flush,
                Commit,
                Flush,
                Empty,
                Write(K, K, 4),
                Flush,
            ],
        ),
        above(
            "rebase",
            &[
                Write(9 * K, 2 * K, 80),
                Rebase(true),
                Write(0, 100, 4),
                Flush,
            ],
        ),
        Scenario {
            options: CreateOptions {
                extended_l2: true,
                ..options(96 * K, 16 * K)
            },
            ..above("backing, subclusters", &writes)
        },
    ]
}

fn amendments() -> Vec<Scenario> {
    let bitmaps = vec![
        AddBitmap("first"),
        Write(0, 6 * K, 4),
        Flush,
        AddBitmap("second"),
        Write(20 * K, 6 * K, 4),
        Reopen,
        Write(22 * K, 6 * K, 14),
        Flush,
        RemoveBitmap("first"),
        Resize(80 * K, Preallocation::Off),
        Write(70 * K, 600, 18),
        Reopen,
        RemoveBitmap("second"),
        Flush,
    ];
    let amend = vec![
        Write(0, 2 * K, 4),
        RefcountBits(64),
        Write(20 * K, 2 * K, 5),
        Flush,
        RefcountBits(16),
        Lazy(true),
        Write(2 * K, 9 * K, 6),
        Flush,
        Lazy(false),
        Zero(0, 5 * K, true),
        Version(2),
        Write(0, 9 * K, 7),
        Flush,
        Version(3),
        Repair,
        Discard(0, 4 * K),
        Flush,
        Repair,
    ];
    let downgrade = vec![
        Zero(0, 5 * K, true),
        Zero(13 * K, 2 * K, false),
        Create("one"),
        Zero(40 * K, 4 * K, false),
        Create("two"),
        Write(0, 2 * K, 5),
        Flush,
        Version(2),
        Write(13 * K, 3 * K, 7),
        Flush,
        Apply("one"),
        Delete("two"),
        Version(3),
        Write(40 * K, K, 9),
        Flush,
    ];
    vec![
        Scenario {
            before: some_writes(),
            steps: downgrade.clone(),
            ..scenario("downgrade with snapshots", options(48 * K, 1024))
        },
        Scenario {
            base: 40 * K,
            before: some_writes(),
            steps: downgrade,
            ..scenario(
                "downgrade with snapshots above a base",
                options(48 * K, 1024),
            )
        },
        Scenario {
            before: some_writes(),
            steps: bitmaps,
            ..scenario("bitmaps", options(48 * K, 1024))
        },
        Scenario {
            before: some_writes(),
            steps: amend,
            ..scenario("amend", options(48 * K, 1024))
        },
    ]
}

fn data_files() -> Vec<Scenario> {
    let steps = [
        Write(0, 3 * K, 1),
        Flush,
        Write(10 * K, 5 * K, 2),
        Discard(0, 4 * K),
        Zero(12 * K, 2 * K, false),
        Flush,
        Zero(0, 2 * K + 100, true),
        Write(K, 9 * K, 7),
        Resize(110 * K, Preallocation::Off),
        Write(100 * K, 5 * K, 3),
        Flush,
        Zero(101 * K, 3 * K, true),
        AddBitmap("first"),
        Write(102 * K, K, 5),
        Reopen,
        Resize(40 * K, Preallocation::Off),
        Write(33 * K, 7 * K, 6),
        Flush,
    ];
    let sub = CreateOptions {
        extended_l2: true,
        ..options(96 * K, 16 * K)
    };
    let raw = |options| CreateOptions {
        data_file_raw: true,
        ..options
    };
    let shapes = [
        ("data file", options(96 * K, 1024)),
        ("data file, subclusters", sub.clone()),
        ("raw data file", raw(options(96 * K, 1024))),
        ("raw data file, subclusters", raw(sub)),
    ];
    shapes
        .into_iter()
        .map(|(name, options)| Scenario {
            data_file: true,
            before: some_writes(),
            steps: steps.to_vec(),
            ..scenario(name, options)
        })
        .collect()
}

/// All of them, in groups that run side by side.
pub(crate) fn groups() -> Vec<(&'static str, Vec<Scenario>)> {
    vec![
        ("plain", plain()),
        ("compressed", compressed()),
        ("snapshots", snapshots()),
        ("sizes", sizes()),
        ("jobs", jobs()),
        ("amendments", amendments()),
        ("data files", data_files()),
        ("random", random()),
    ]
}

/// One group by its name.
pub(crate) fn group(name: &str) -> Vec<Scenario> {
    let found = groups().into_iter().find(|(other, _)| *other == name);
    found.map(|(_, list)| list).unwrap()
}
