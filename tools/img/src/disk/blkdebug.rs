//! The driver `blkdebug`, as far as whole guest requests go: rules on `read_aio`, `write_aio`
//! and `flush_to_disk` change a state and fail requests.

use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use strata_qcow2::Storage;

use super::options::Options;
use crate::fail;
use crate::report::{Failure, Outcome};

/// Rules that apply to a disk's requests.
#[derive(Debug)]
pub(super) struct Rules {
    state: AtomicU64,
    rules: Vec<Rule>,
    /// Zeroes that are not whole multiples of this are written as data.
    pub(super) zero_unit: u64,
}

#[derive(Debug)]
struct Rule {
    event: String,
    /// Applies in this state only; 0 in every state.
    state: u64,
    action: Action,
}

#[derive(Debug)]
enum Action {
    SetState(u64),
    Fail {
        errno: i32,
        once: bool,
        spent: AtomicBool,
    },
}

const EVENTS: [&str; 4] = ["none", "read_aio", "write_aio", "flush_to_disk"];

impl Rules {
    /// Takes `set-state` and `inject-error` out of `options`, and adds the rules of the file
    /// `config`.
    ///
    /// # Errors
    /// For rules on events within a request, and a file that cannot be read.
    pub(super) fn take(options: &mut Options, config: Option<&str>) -> Outcome<Self> {
        let mut rules = Vec::new();
        let mut set_state = list(options.take_below("set-state"));
        let mut inject_error = list(options.take_below("inject-error"));
        for (kind, rule) in config.map(read_config).transpose()?.unwrap_or_default() {
            match kind.as_str() {
                "set-state" => set_state.push(rule),
                "inject-error" => inject_error.push(rule),
                other => fail!("blkdebug section '{other}' is not supported"),
            }
        }
        for mut given in set_state {
            let event = event(&mut given)?;
            let state = given.take_size("state")?.unwrap_or(0);
            let Some(new) = given.take_size("new_state")? else {
                fail!("Parameter 'set-state.new_state' is missing");
            };
            given.finish("protocol", "blkdebug")?;
            rules.push(Rule {
                event,
                state,
                action: Action::SetState(new),
            });
        }
        for mut given in inject_error {
            let event = event(&mut given)?;
            let state = given.take_size("state")?.unwrap_or(0);
            let errno = given
                .take_size("errno")?
                .map_or(libc::EIO, |errno| errno as i32);
            let once = given.take_switch("once")?.unwrap_or(false);
            // When the request fails: none of the requests here has a later moment.
            given.take("immediately");
            given.finish("protocol", "blkdebug")?;
            let action = Action::Fail {
                errno,
                once,
                spent: AtomicBool::new(false),
            };
            rules.push(Rule {
                event,
                state,
                action,
            });
        }
        Ok(Self {
            state: AtomicU64::new(1),
            rules,
            zero_unit: 1,
        })
    }

    /// What happens to a request of this kind. States change after all rules were looked at.
    pub(super) fn event(&self, event: &str) -> io::Result<()> {
        let state = self.state.load(Ordering::SeqCst);
        let mut failure = None;
        for rule in self.rules.iter().filter(|rule| rule.event == event) {
            if rule.state != 0 && rule.state != state {
                continue;
            }
            match &rule.action {
                Action::SetState(new) => self.state.store(*new, Ordering::SeqCst),
                Action::Fail { errno, once, spent } => {
                    if !(*once && spent.swap(true, Ordering::SeqCst)) {
                        failure = Some(*errno);
                    }
                }
            }
        }
        failure.map_or(Ok(()), |errno| Err(io::Error::from_raw_os_error(errno)))
    }
}

/// A storage whose reads, writes and flushes are events.
pub(super) struct RuledStorage {
    pub(super) inner: Arc<dyn Storage>,
    pub(super) rules: Rules,
}

impl Storage for RuledStorage {
    fn read_vectored_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> io::Result<()> {
        self.rules.event("read_aio")?;
        self.inner.read_vectored_at(bufs, offset)
    }

    fn write_vectored_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.rules.event("write_aio")?;
        self.inner.write_vectored_at(bufs, offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.rules.event("flush_to_disk")?;
        self.inner.flush()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.discard(offset, len)
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        self.inner.next_data(offset)
    }
}

fn event(given: &mut Options) -> Outcome<String> {
    match given.take("event") {
        Some(event) if EVENTS.contains(&event.as_str()) => Ok(event),
        Some(event) => fail!("blkdebug event '{event}' is not supported"),
        None => fail!("Parameter 'event' is missing"),
    }
}

/// The items of a flattened list, in the order of their numbers.
fn list(mut options: Options) -> Vec<Options> {
    let numbers: BTreeMap<u64, String> = options
        .names()
        .filter_map(|name| {
            let head = name.split('.').next()?;
            Some((head.parse().ok()?, head.to_owned()))
        })
        .collect();
    numbers
        .into_values()
        .map(|head| options.take_below(&head))
        .collect()
}

/// Longest file of rules that is read.
const MAX_CONFIG: u64 = 1 << 16;

/// Reads sections of `name = "value"` lines.
fn read_config(path: &str) -> Outcome<Vec<(String, Options)>> {
    let unreadable = |error: io::Error| Failure::new(format!("Could not read '{path}': {error}"));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_CONFIG)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    let mut sections: Vec<(String, Options)> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let section = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        if let Some(name) = section {
            sections.push((name.to_owned(), Options::default()));
        } else if let (Some((name, value)), Some((_, options))) =
            (line.split_once('='), sections.last_mut())
        {
            options.set(name.trim(), value.trim().trim_matches('"'));
        } else if !line.starts_with('#') {
            fail!("Could not parse blkdebug config file: {line}");
        }
    }
    Ok(sections)
}
