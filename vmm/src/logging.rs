//! Messages to standard error by level, and all of them as JSON lines in a file if asked.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::console::terminal;
use crate::error::Error;

struct Logger {
    stderr_level: LevelFilter,
    file: Option<Mutex<File>>,
}

/// The level that `count` occurrences of `-v` ask for: warnings at none, everything from three.
pub fn level(count: u8) -> LevelFilter {
    match count {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    }
}

/// Installs the process's logger. `file`, if any, receives one JSON object per line and per
/// message, at level debug or the one asked for on standard error, whichever says more.
pub fn init(verbose: u8, file: Option<&Path>) -> Result<(), Error> {
    let stderr_level = level(verbose);
    let file = file
        .map(|path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .map_err(|source| Error::File {
                    what: "log file",
                    path: path.to_owned(),
                    remedy: "name a file in a directory that exists and that you may write to",
                    source,
                })
        })
        .transpose()?
        .map(Mutex::new);
    let max = if file.is_some() {
        stderr_level.max(LevelFilter::Debug)
    } else {
        stderr_level
    };
    let logger = Box::leak(Box::new(Logger { stderr_level, file }));
    // A second logger can only come from a second call, which keeps the first.
    if log::set_logger(logger).is_ok() {
        log::set_max_level(max);
    }
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if record.level() <= self.stderr_level {
            let _ = write!(
                std::io::stderr(),
                "strata: {}{}{}",
                prefix(record.level()),
                record.args(),
                terminal::line_end(),
            );
        }
        if let Some(file) = &self.file {
            let line = json_line(record);
            if let Ok(mut file) = file.lock() {
                // A full disk must not take the guest down with it.
                let _ = file.write_all(line.as_bytes());
            }
        }
    }

    fn flush(&self) {}
}

fn prefix(level: Level) -> &'static str {
    match level {
        Level::Error => "error: ",
        Level::Warn => "warning: ",
        Level::Info => "",
        Level::Debug => "debug: ",
        Level::Trace => "trace: ",
    }
}

fn json_line(record: &Record<'_>) -> String {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let mut line = serde_json::json!({
        "time": now.as_secs_f64(),
        "level": record.level().as_str().to_ascii_lowercase(),
        "target": record.target(),
        "message": record.args().to_string(),
    })
    .to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbosity_maps_to_levels() {
        assert_eq!(level(0), LevelFilter::Warn);
        assert_eq!(level(1), LevelFilter::Info);
        assert_eq!(level(2), LevelFilter::Debug);
        assert_eq!(level(200), LevelFilter::Trace);
    }

    #[test]
    fn a_message_is_one_json_line_whatever_it_contains() {
        let line = json_line(
            &Record::builder()
                .level(Level::Warn)
                .target("t")
                .args(format_args!("a\n\"b\""))
                .build(),
        );
        assert_eq!(line.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "a\n\"b\"");
        assert_eq!(value["level"], "warn");
    }
}
