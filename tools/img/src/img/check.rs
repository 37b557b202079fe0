//! `check`: whether an image is consistent, and repairing it.
//!
//! Exit codes: 0 good, 1 the check itself failed, 2 corrupt, 3 leaked clusters only, 63 the
//! format has no checks.

use strata_qcow2::{CheckReport, Error, Repair};

use super::{Common, Output, cache, reason};
use crate::disk::{Cache, Disk, Flags, repair_tool, words};
use crate::getopt::Spec;
use crate::page::Page;
use crate::report::{Failure, Outcome, note};
use crate::text::json::{Value, object};
use crate::{fail, out};

pub(super) const PAGE: Page = Page {
    name: "check",
    about: "Check an image's consistency, and repair it",
    operands: "FILENAME",
    specs: &[
        Common::HELP,
        Common::FORMAT,
        Common::OUTPUT,
        Common::OBJECT,
        Common::IMAGE_OPTS,
        Common::FORCE_SHARE,
        Common::QUIET,
        Spec::value(
            Some('r'),
            "repair",
            "leaks|all",
            "Repair what is found: leaked clusters only, or all",
        ),
        Spec::value(
            Some('T'),
            "cache",
            "MODE",
            "Cache mode of the image: none, writeback, writethrough, directsync or unsafe [default: writeback]",
        ),
    ],
    examples: &[
        (
            "disk.qcow2",
            "exit code 0: good, 2: corrupt, 3: leaked clusters only, 1: failed, 63: no such check",
        ),
        ("-r all disk.qcow2", "repair what can be repaired"),
    ],
};

const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOT_SUPPORTED: u8 = 63;

pub(super) fn run(args: &[String]) -> Outcome<u8> {
    let (mut repair, mut source_cache) = (Repair::Nothing, None);
    let common = Common::parse(args, &PAGE, |name, value| {
        match (name, value.as_str()) {
            ("repair", "leaks") => repair = Repair::Leaks,
            ("repair", "all") => repair = Repair::All,
            ("repair", other) => {
                return Err(Failure::usage(format!(
                    "Unknown option value for -r (expecting 'leaks' or 'all'): {other}"
                )));
            }
            _ => source_cache = Some(value),
        }
        Ok(())
    })?;
    let name = common.one_image()?;
    let output = common.output()?;
    let cache = cache(
        source_cache.as_deref(),
        Cache::WRITEBACK,
        "Invalid source cache option",
    )?;
    let write = repair != Repair::Nothing;
    let disk = common.open(
        name,
        Flags {
            write,
            check: true,
            cache,
            ..Flags::default()
        },
    )?;
    if disk.image().is_none() {
        return Err(Failure::new("This image format does not support checks").code(NOT_SUPPORTED));
    }
    let mut report = check(&disk, repair)?;
    if report.corruptions_fixed > 0 || report.leaks_fixed > 0 {
        if output == Output::Human && !common.quiet {
            out!(
                "The following inconsistencies were found and repaired:\n\n    {} leaked \
                 clusters\n    {} corruptions\n\nDouble checking the fixed image now...\n",
                report.leaks_fixed,
                report.corruptions_fixed
            );
        }
        let fixed = (report.leaks_fixed, report.corruptions_fixed);
        report = check(&disk, Repair::Nothing)?;
        (report.leaks_fixed, report.corruptions_fixed) = fixed;
    }
    if !common.quiet {
        match output {
            Output::Human => print(&report),
            Output::Json => out!("{}\n", to_json(&disk, name, &report).pretty()),
        }
    }
    if write {
        disk.close().map_err(|error| Failure::new(words(&error)))?;
    }
    match report {
        CheckReport {
            check_errors: 1.., ..
        } => fail!("Check failed"),
        CheckReport {
            corruptions: 1.., ..
        } => Ok(CORRUPT),
        CheckReport { leaks: 1.., .. } => Ok(LEAKS),
        _ => Ok(0),
    }
}

fn check(disk: &Disk, repair: Repair) -> Outcome<CheckReport> {
    let Some(image) = disk.image() else {
        fail!("This image format does not support checks")
    };
    image
        .check(repair, &mut |finding| note(&finding.text))
        .map_err(|error| {
            tell_snapshot_table(&error);
            Failure::new(format!("Check failed: {}", reason(&error)))
        })
}

/// Says that it was the snapshot table that stopped the check, if it was.
fn tell_snapshot_table(error: &Error) {
    match error {
        Error::Malformed {
            structure: "snapshot table" | "snapshot table entry",
            ..
        } => crate::report::error(format_args!(
            "ERROR failed to read the snapshot table: {}",
            words(error)
        )),
        Error::TooLarge {
            what: "number of snapshots",
            value,
            limit,
        } => crate::report::error(format_args!(
            "ERROR snapshot table too large\nYou can force-remove all {} overhanging snapshots \
             with {} check -r all",
            value.saturating_sub(*limit),
            repair_tool()
        )),
        _ => {}
    }
}

fn print(report: &CheckReport) {
    if report.is_clean() {
        out!("No errors were found on the image.\n");
    }
    if report.corruptions > 0 {
        out!(
            "\n{} errors were found on the image.\nData may be corrupted, or further writes to \
             the image may corrupt it.\n",
            report.corruptions
        );
    }
    if report.leaks > 0 {
        out!(
            "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but \
             no harm to data.\n",
            report.leaks
        );
    }
    if report.check_errors > 0 {
        out!(
            "\n{} internal errors have occurred during the check.\n",
            report.check_errors
        );
    }
    if report.total_clusters > 0 && report.allocated_clusters > 0 {
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        out!(
            "{}/{} = {:.2}% allocated, {:.2}% fragmented, {:.2}% compressed clusters\n",
            report.allocated_clusters,
            report.total_clusters,
            percent(report.allocated_clusters, report.total_clusters),
            percent(report.fragmented_clusters, report.allocated_clusters),
            percent(report.compressed_clusters, report.allocated_clusters)
        );
    }
    if report.image_end_offset > 0 {
        out!("Image end offset: {}\n", report.image_end_offset);
    }
}

fn to_json(disk: &Disk, name: &str, report: &CheckReport) -> Value {
    let some = |count: u64| (count > 0).then(|| Value::from(count));
    object([
        ("filename", Some(name.into())),
        ("format", Some(disk.format.name().into())),
        ("check-errors", Some(report.check_errors.into())),
        ("image-end-offset", some(report.image_end_offset)),
        ("corruptions", some(report.corruptions)),
        ("leaks", some(report.leaks)),
        ("corruptions-fixed", some(report.corruptions_fixed)),
        ("leaks-fixed", some(report.leaks_fixed)),
        ("total-clusters", some(report.total_clusters)),
        ("allocated-clusters", some(report.allocated_clusters)),
        ("fragmented-clusters", some(report.fragmented_clusters)),
        ("compressed-clusters", some(report.compressed_clusters)),
    ])
}
