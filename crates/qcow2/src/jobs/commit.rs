//! Writing an overlay's data into a node below it.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::{Progress, tell};
use crate::aligned::AlignedBuf;
use crate::create::Preallocation;
use crate::error::{Error, IoContext, Result};
use crate::node::Node;

/// Bytes copied at once: small enough to stay in the processor's cache between reading and writing.
const STEP: u64 = 512 << 10;
const PAGE: usize = 4096;
/// How far the second thread may be ahead of what `progress` knows, so that a caller who wants to
/// go slowly, or to stop, does.
const AHEAD: u64 = 8 << 20;

/// Copies all that the nodes from `top` down to above `base` hold into `base`, which must be
/// open for writing, and makes it durable. `base` grows to the size of `top`. The overlays stay
/// as they are; [`crate::Image::make_empty`] empties one.
///
/// A second thread helps, so that one reads while the other writes; `progress` is called on the
/// calling one.
///
/// # Errors
/// Those of reading `top` and writing `base`; stopped half-way, `base` holds a part of the data
/// and `top` reads as before.
pub fn commit(top: &Node, base: &Arc<Node>, progress: Progress<'_>) -> Result<()> {
    let size = top.size();
    if base.size() < size {
        base.resize(size, Preallocation::Off)?;
    }
    // No cluster of the base is written in two parts.
    let cluster = base
        .as_qcow2()
        .map_or(0, |image| image.geometry().cluster_size());
    let job = Job {
        top,
        base,
        size,
        step: STEP.max(cluster),
        walk: Mutex::default(),
        moved: Condvar::new(),
    };
    std::thread::scope(|scope| {
        let helper = scope.spawn(|| job.work(Role::Helper));
        let done = job.work(Role::Teller(&mut |done| tell(progress, done, size)));
        let helped = helper
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.and(helped)
    })?;
    tell(progress, size, size)?;
    base.flush()
}

/// What a thread of a commit does besides copying.
enum Role<'a> {
    /// Tells how many bytes are done.
    Teller(&'a mut dyn FnMut(u64) -> Result<()>),
    Helper,
}

struct Job<'a> {
    top: &'a Node,
    base: &'a Arc<Node>,
    size: u64,
    step: u64,
    walk: Mutex<Walk>,
    moved: Condvar,
}

/// Where the walk over the disk is.
#[derive(Default)]
struct Walk {
    at: u64,
    /// Where the steps begin that the teller and the helper have taken and not finished.
    busy: [Option<u64>; 2],
    /// What has been told.
    told: u64,
    /// No steps are left, or a thread has failed.
    over: bool,
}

impl Walk {
    /// Everything before this offset is done.
    fn done(&self) -> u64 {
        self.busy
            .iter()
            .flatten()
            .fold(self.at, |least, at| least.min(*at))
    }
}

/// A range to copy. `zero` says that it reads as zeroes.
struct Step {
    at: u64,
    length: u64,
    zero: bool,
}

impl Job<'_> {
    fn lock(&self) -> MutexGuard<'_, Walk> {
        self.walk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies steps until none is left. Whatever ends this ends the other thread's work too.
    fn work(&self, role: Role<'_>) -> Result<()> {
        let done = self.copy_steps(role);
        self.lock().over = true;
        self.moved.notify_all();
        done
    }

    fn copy_steps(&self, mut role: Role<'_>) -> Result<()> {
        // The kernel copies faster to whole pages, and O_DIRECT wants them.
        let mut buffer =
            AlignedBuf::new(self.step as usize, PAGE).context("buffer", 0, self.step)?;
        let slot = usize::from(matches!(role, Role::Helper));
        while let Some(Step { at, length, zero }) = self.take(&role)? {
            copy_range(
                self.top,
                self.base,
                at,
                length,
                zero,
                &mut buffer,
                &mut |_| Ok(()),
            )?;
            let mut walk = self.lock();
            walk.busy[slot] = None;
            let done = walk.done();
            drop(walk);
            if let Role::Teller(tell) = &mut role {
                tell(done)?;
                self.lock().told = done;
                self.moved.notify_all();
            }
        }
        Ok(())
    }

    /// The next step for a thread; None if there is none, or the other thread has failed.
    fn take(&self, role: &Role<'_>) -> Result<Option<Step>> {
        let mut walk = self.lock();
        if let Role::Helper = role {
            let early = |walk: &mut Walk| !walk.over && walk.at.saturating_sub(walk.told) > AHEAD;
            walk = self
                .moved
                .wait_while(walk, early)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if walk.over {
            return Ok(None);
        }
        let step = self.next(&mut walk)?;
        let slot = usize::from(matches!(role, Role::Helper));
        walk.busy[slot] = step.as_ref().map(|step| step.at);
        Ok(step)
    }

    /// Moves the walk on by one step: a run of zeroes, or data up to the end of a step's buffer,
    /// from however many runs.
    fn next(&self, walk: &mut Walk) -> Result<Option<Step>> {
        let mut data: Option<Step> = None;
        while walk.at < self.size {
            let at = walk.at;
            let mut most = self.size - at;
            if let Some(step) = &data {
                most = most.min(self.step - step.at % self.step - step.length);
                if most == 0 {
                    break;
                }
            }
            let run = self.top.map(at, most, Some(self.base))?;
            match (&mut data, run.present, run.zero) {
                (None, false, _) => walk.at += run.length,
                (None, true, true) => {
                    walk.at += run.length;
                    let (length, zero) = (run.length, true);
                    return Ok(Some(Step { at, length, zero }));
                }
                (None, true, false) => {
                    let (length, zero) = (run.length.min(self.step - at % self.step), false);
                    walk.at += length;
                    data = Some(Step { at, length, zero });
                }
                (Some(step), true, false) => {
                    walk.at += run.length;
                    step.length += run.length;
                }
                (Some(_), _, _) => break,
            }
        }
        Ok(data)
    }
}

/// Copies `length` bytes at `at` from one node to another, at most as many at once as `buffer`
/// holds; `zero` says that they read as zeroes.
///
/// # Errors
/// [`Error::Invalid`] for an empty buffer; those of reading, of writing, and of `done`, which
/// hears how many bytes are copied.
pub fn copy_range(
    from: &Node,
    to: &Node,
    at: u64,
    length: u64,
    zero: bool,
    buffer: &mut [u8],
    done: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<()> {
    if zero {
        to.write_zeroes(at, length, true)?;
        return done(length);
    }
    if buffer.is_empty() {
        return Err(Error::Invalid("a copy needs a buffer".into()));
    }
    let mut copied = 0;
    while copied < length {
        let step = (buffer.len() as u64).min(length - copied) as usize;
        from.read_at(&mut buffer[..step], at + copied)?;
        to.write_at(&buffer[..step], at + copied)?;
        copied += step as u64;
        done(copied)?;
    }
    Ok(())
}
