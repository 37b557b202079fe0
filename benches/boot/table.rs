//! What was measured, as tables.

use serde_json::json;
use strata_lab::Cost;

/// A figure of a boot; less of it is better.
struct Column {
    key: &'static str,
    name: &'static str,
    value: fn(&Cost) -> f64,
    decimals: usize,
}

const COLUMNS: [Column; 7] = [
    Column {
        key: "first_entry_s",
        name: "first entry, s",
        value: |cost| cost.first_entry_s,
        decimals: 3,
    },
    Column {
        key: "marker_s",
        name: "init's line, s",
        value: |cost| cost.marker_s,
        decimals: 3,
    },
    Column {
        key: "exits",
        name: "exits",
        value: |cost| cost.exits as f64,
        decimals: 0,
    },
    Column {
        key: "io_exits",
        name: "of them I/O",
        value: |cost| cost.io_exits as f64,
        decimals: 0,
    },
    Column {
        key: "npt_faults",
        name: "nested faults",
        value: |cost| cost.npt_faults as f64,
        decimals: 0,
    },
    Column {
        key: "vmm_pss_kb",
        name: "KiB beside",
        value: |cost| cost.vmm_pss_kb as f64,
        decimals: 0,
    },
    Column {
        key: "threads",
        name: "threads",
        value: |cost| cost.threads as f64,
        decimals: 0,
    },
];

/// One program in one setup: the medians of each figure, or why there are none.
pub(crate) struct Row {
    program: String,
    setup: &'static str,
    figures: Result<[f64; COLUMNS.len()], String>,
}

impl Row {
    pub(crate) fn new(
        program: &str,
        setup: &'static str,
        costs: Result<Vec<Cost>, String>,
    ) -> Self {
        let figures =
            costs.map(|costs| COLUMNS.map(|column| median(costs.iter().map(column.value))));
        Self {
            program: program.to_owned(),
            setup,
            figures,
        }
    }

    fn name(&self) -> String {
        format!("{}, {}", self.program, self.setup)
    }

    /// One line for those who wait.
    pub(crate) fn progress(&self, series: &str) -> String {
        match &self.figures {
            Ok(figures) => format!("Linux {series}: {}: {:.3} s", self.name(), figures[1]),
            Err(error) => format!("Linux {series}: {}: {error}", self.name()),
        }
    }

    /// One object, with the keys of `lab boot --json`.
    pub(crate) fn json(&self, series: &str) -> String {
        let mut object = json!({ "kernel": series, "program": self.program, "setup": self.setup });
        match &self.figures {
            Ok(figures) => {
                for (column, figure) in COLUMNS.iter().zip(figures) {
                    object[column.key] = json!(figure);
                }
            }
            Err(error) => object["error"] = json!(error),
        }
        object.to_string()
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figures, what they are of those of the first row, and who is better in what.
pub(crate) fn render(series: &str, rows: &[Row]) -> String {
    let cell = |column: &Column, figure: f64| format!("{figure:.*}", column.decimals);
    let mut text = header(&format!("Linux {series}"));
    for row in rows {
        text += &match &row.figures {
            Ok(figures) => line(
                &row.name(),
                COLUMNS.iter().zip(figures).map(|(c, f)| cell(c, *f)),
            ),
            Err(_) => line(&row.name(), COLUMNS.iter().map(|_| "failed".to_owned())),
        };
    }
    let Some(Ok(first)) = rows.first().map(|row| &row.figures) else {
        return text;
    };
    text += "\n";
    text += &header(&format!("times {}", rows[0].name()));
    for row in &rows[1..] {
        if let Ok(figures) = &row.figures {
            let ratios = figures
                .iter()
                .zip(first)
                .map(|(figure, first)| format!("{:.2}", figure / first));
            text += &line(&row.name(), ratios);
        }
    }
    text + "\n" + &verdicts(first, rows)
}

fn header(title: &str) -> String {
    let names = line(title, COLUMNS.iter().map(|column| column.name.to_owned()));
    names + "|---|" + &"---:|".repeat(COLUMNS.len()) + "\n"
}

fn line(name: &str, cells: impl Iterator<Item = String>) -> String {
    format!("| {name} | {} |\n", cells.collect::<Vec<_>>().join(" | "))
}

/// For each figure, how the first row stands to the best of the other programs.
fn verdicts(first: &[f64; COLUMNS.len()], rows: &[Row]) -> String {
    let mut text = String::new();
    for (index, column) in COLUMNS.iter().enumerate() {
        let others = rows.iter().filter(|row| row.program != rows[0].program);
        let figures = others.filter_map(|row| Some((row, row.figures.as_ref().ok()?[index])));
        let Some((best, figure)) = figures.min_by(|(_, a), (_, b)| a.total_cmp(b)) else {
            continue;
        };
        let ratio = first[index] / figure;
        let verdict = match ratio {
            ratio if ratio < 0.98 => "wins",
            ratio if ratio > 1.02 => "LOSES",
            // What runs of the same boot differ by.
            _ => "draws",
        };
        text += &format!(
            "- {}: {} {verdict}, with {ratio:.2} times the best other ({})\n",
            column.name,
            rows[0].program,
            best.name()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(program: &str, marker: f64) -> Row {
        let figures = Ok([0.02, marker, 1000.0, 300.0, 40.0, 2000.0, 2.0]);
        Row {
            program: program.into(),
            setup: "ELF",
            figures,
        }
    }

    #[test]
    fn wins_and_losses_are_told() {
        let failed = Row {
            figures: Err("no".into()),
            ..row("none", 0.0)
        };
        let rows = [
            row("strata", 0.4),
            row("slow", 0.8),
            row("fast", 0.2),
            failed,
        ];
        let text = render("6.1", &rows);
        assert!(
            text.contains("| strata, ELF | 0.020 | 0.400 | 1000 | 300 | 40 | 2000 | 2 |"),
            "{text}"
        );
        assert!(text.contains("| slow, ELF | 1.00 | 2.00 |"), "{text}");
        assert!(
            text.contains(
                "init's line, s: strata LOSES, with 2.00 times the best other (fast, ELF)"
            )
        );
        assert!(text.contains("exits: strata draws"), "{text}");
        assert!(text.contains("| none, ELF | failed"), "{text}");
        let text = render("6.1", &rows[..2]);
        assert!(
            text.contains("init's line, s: strata wins, with 0.50 times"),
            "{text}"
        );
    }

    #[test]
    fn the_middle_of_several_runs_counts() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
    }
}
