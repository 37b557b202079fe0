//! `strata doctor`: what this host offers for running guests, and what follows from it.

mod checks;
mod kvm;
mod payload;

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// How a finding bears on running guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything that uses it works.
    Ok,
    /// Something works less well, or not at all, without it.
    Limited,
    /// No guest can run.
    Missing,
}

/// One thing looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How it bears on running guests.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What follows: what works or does not, and what to do about it.
    pub consequence: String,
}

impl Finding {
    fn new(
        name: &'static str,
        verdict: Verdict,
        found: impl Into<String>,
        consequence: impl Into<String>,
    ) -> Self {
        Self {
            name,
            verdict,
            found: found.into(),
            consequence: consequence.into(),
        }
    }
}

/// Looks at everything.
pub fn examine() -> Vec<Finding> {
    let mut findings = kvm::examine();
    findings.push(payload::examine());
    findings.extend(checks::examine());
    findings
}

/// Prints the findings for a person, or as JSON; returns whether a guest can run.
///
/// # Errors
/// The error of the write.
pub fn report(findings: &[Finding], json: bool) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", serde_json::to_string_pretty(findings)?)?;
    } else {
        write_table(&mut out, findings, io::stdout().is_terminal())?;
    }
    Ok(findings
        .iter()
        .all(|finding| finding.verdict != Verdict::Missing))
}

fn write_table(out: &mut dyn Write, findings: &[Finding], color: bool) -> io::Result<()> {
    let width = findings
        .iter()
        .map(|finding| finding.name.len())
        .max()
        .unwrap_or_default();
    for finding in findings {
        let (mark, paint) = match finding.verdict {
            Verdict::Ok => ("ok     ", "\x1b[32m"),
            Verdict::Limited => ("limited", "\x1b[33m"),
            Verdict::Missing => ("missing", "\x1b[31m"),
        };
        let (paint, plain) = if color { (paint, "\x1b[0m") } else { ("", "") };
        writeln!(
            out,
            "{paint}{mark}{plain}  {:width$}  {}",
            finding.name, finding.found
        )?;
        if !finding.consequence.is_empty() {
            writeln!(out, "{:9}{:width$}  {}", "", "", finding.consequence)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_finding_and_no_color_in_a_pipe() {
        let findings = [
            Finding::new("a", Verdict::Ok, "found a", ""),
            Finding::new("longer", Verdict::Missing, "no b", "install b"),
        ];
        let mut out = Vec::new();
        write_table(&mut out, &findings, false).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "ok       a       found a\nmissing  longer  no b\n                 install b\n"
        );
    }

    #[test]
    fn every_consequence_is_a_sentence_for_what_is_limited() {
        for finding in checks::examine() {
            assert!(!finding.found.is_empty(), "{finding:?}");
            assert!(
                finding.verdict == Verdict::Ok || !finding.consequence.is_empty(),
                "{finding:?}"
            );
        }
    }
}
