//! A vCPU on its own thread.
//!
//! One mutex guards the hand-over of the [`Vcpu`] between its thread and whoever paused it; no
//! lock is taken between exits. A request is written first, then `immediate_exit`, then the
//! signal is sent. The vCPU's thread clears `immediate_exit` before it reads the request. So a
//! request is either seen at once or makes the next KVM_RUN return. KVM completes a pending port
//! or memory access before it looks at `immediate_exit` (KVM API, KVM_RUN), and a request is read
//! only after KVM_RUN returned EINTR, so that a paused vCPU has no half-done access.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};

use vmm_sys_util::errno;
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

use crate::error::{Error, Result};
use crate::handler::ExitHandler;
use crate::report::ExitReason;
use crate::sys::{self, RunPage};
use crate::vcpu::{Step, Vcpu};

/// The first real-time signal, which neither glibc nor Rust's library uses.
fn kick_signal() -> libc::c_int {
    SIGRTMIN()
}

/// Deep enough for the exit path with its handler; only what is touched costs memory.
const STACK_SIZE: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Run,
    Pause,
    Stop,
}

#[derive(Debug)]
struct Control {
    request: Request,
    /// Some while the vCPU is paused, and after it ended.
    parked: Option<Vcpu>,
    ended: bool,
}

#[derive(Debug)]
struct Shared {
    control: Mutex<Control>,
    changed: Condvar,
    page: Arc<RunPage>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Control> {
        // Control is valid between any two statements that change it.
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, control: MutexGuard<'a, Control>) -> MutexGuard<'a, Control> {
        self.changed
            .wait(control)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of one vCPU. Dropping it stops the vCPU and waits for the thread's end.
#[derive(Debug)]
pub struct VcpuThread {
    index: u32,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<ExitReason>>>,
}

impl VcpuThread {
    /// Starts the thread `vcpuN`, on which the vCPU is paused until [`resume`](Self::resume).
    ///
    /// The first real-time signal is taken for kicks in the whole process; the thread has all
    /// other signals blocked.
    ///
    /// # Errors
    ///
    /// [`Error::Signal`] and [`Error::Spawn`].
    pub fn spawn<H: ExitHandler>(vcpu: Vcpu, handler: Arc<H>) -> Result<Self> {
        let index = vcpu.index;
        install_kick_handler().map_err(|source| Error::Signal {
            vcpu: index,
            action: "install",
            source,
        })?;
        let shared = Arc::new(Shared {
            page: Arc::clone(&vcpu.page),
            control: Mutex::new(Control {
                request: Request::Pause,
                parked: Some(vcpu),
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let thread = start(index, Arc::clone(&shared), handler)?;
        Ok(Self {
            index,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Gives a vCPU that has ended a new thread, on which it is paused; without effect on one that
    /// has not. The access that ended it is completed, but its state is otherwise that of its end:
    /// [set it](Vcpu::set_state) before [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// [`Error::Ended`] if its handler panicked, [`Error::Spawn`].
    pub fn revive<H: ExitHandler>(&self, handler: Arc<H>) -> Result<()> {
        let mut thread = self.thread();
        if !self.has_ended() {
            return Ok(());
        }
        if let Some(ended) = thread.take() {
            // A panic of the handler was already printed by its own thread.
            let _ = ended.join();
        }
        let mut control = self.shared.lock();
        let vcpu = control.parked.as_mut();
        let vcpu = vcpu.ok_or(Error::Ended { vcpu: self.index })?;
        vcpu.complete_access();
        control.request = Request::Pause;
        control.ended = false;
        drop(control);
        *thread = Some(start(self.index, Arc::clone(&self.shared), handler)?);
        Ok(())
    }

    /// The vCPU's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Whether the vCPU has ended and [`join`](Self::join) will not wait.
    pub fn has_ended(&self) -> bool {
        self.shared.lock().ended
    }

    /// Asks the vCPU to pause, without waiting. To pause many, ask all and then [`pause`](Self::pause) each.
    ///
    /// # Errors
    ///
    /// [`Error::Signal`].
    pub fn request_pause(&self) -> Result<()> {
        self.request(Request::Pause)
    }

    /// Returns when the vCPU is out of KVM_RUN, with no access pending, or has ended.
    ///
    /// # Errors
    ///
    /// [`Error::Signal`].
    pub fn pause(&self) -> Result<()> {
        self.request_pause()?;
        let mut control = self.shared.lock();
        while control.parked.is_none() && !control.ended {
            control = self.shared.wait(control);
        }
        Ok(())
    }

    /// Lets a paused vCPU run on.
    ///
    /// # Errors
    ///
    /// [`Error::Ended`], also when it was asked to stop.
    pub fn resume(&self) -> Result<()> {
        let mut control = self.shared.lock();
        if control.ended || control.request == Request::Stop {
            return Err(Error::Ended { vcpu: self.index });
        }
        if let Some(vcpu) = &control.parked {
            vcpu.excuse_lost_time();
        }
        control.request = Request::Run;
        self.shared.changed.notify_all();
        Ok(())
    }

    /// Makes the vCPU leave KVM_RUN once, and enter it again.
    ///
    /// # Errors
    ///
    /// [`Error::Signal`].
    pub fn kick(&self) -> Result<()> {
        let thread = self.thread();
        let Some(thread) = thread.as_ref() else {
            return Ok(());
        };
        self.shared.page.set_immediate_exit(true);
        thread.kill(kick_signal()).map_err(|source| Error::Signal {
            vcpu: self.index,
            action: "send",
            source,
        })
    }

    /// Calls `f` with the paused vCPU, which can not be resumed before `f` returns.
    ///
    /// An ended vCPU can be looked at too. The port or memory access that ended it may be half
    /// done in its state, so that it is of no use for a restore.
    ///
    /// # Errors
    ///
    /// [`Error::NotPaused`].
    pub fn with_paused<R>(&self, f: impl FnOnce(&mut Vcpu) -> R) -> Result<R> {
        let mut control = self.shared.lock();
        control
            .parked
            .as_mut()
            .map(f)
            .ok_or(Error::NotPaused { vcpu: self.index })
    }

    /// Asks the vCPU to end with [`ExitReason::Stopped`], without waiting.
    ///
    /// # Errors
    ///
    /// [`Error::Signal`].
    pub fn stop(&self) -> Result<()> {
        self.request(Request::Stop)
    }

    /// Waits for the vCPU to end, and says why it did.
    ///
    /// # Panics
    ///
    /// If the handler panicked on the vCPU's thread.
    pub fn join(self) -> ExitReason {
        let thread = self.thread().take();
        match thread.map(JoinHandle::join) {
            Some(Ok(reason)) => reason,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => ExitReason::Stopped,
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<JoinHandle<ExitReason>>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, request: Request) -> Result<()> {
        let mut control = self.shared.lock();
        if control.ended || control.request == Request::Stop {
            return Ok(());
        }
        control.request = request;
        self.shared.changed.notify_all();
        if control.parked.is_some() {
            return Ok(());
        }
        self.kick()
    }
}

impl Drop for VcpuThread {
    fn drop(&mut self) {
        if self.stop().is_ok() {
            // A panic of the handler was already printed by its own thread.
            let _ = self.thread().take().map(JoinHandle::join);
        }
    }
}

/// Marks the vCPU as ended on every way out of its thread, so that nobody waits for it in vain.
struct EndGuard(Arc<Shared>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.lock().ended = true;
        self.0.changed.notify_all();
    }
}

/// Starts the thread `vcpuN`.
fn start<H: ExitHandler>(
    index: u32,
    shared: Arc<Shared>,
    handler: Arc<H>,
) -> Result<JoinHandle<ExitReason>> {
    let end = EndGuard(shared);
    Builder::new()
        .name(format!("vcpu{index}"))
        .stack_size(STACK_SIZE)
        .spawn(move || {
            let reason = run(&end.0, &*handler);
            drop(end);
            handler.ended(index, &reason);
            reason
        })
        .map_err(|source| Error::Spawn {
            vcpu: index,
            source,
        })
}

fn run<H: ExitHandler>(shared: &Shared, handler: &H) -> ExitReason {
    sys::block_signals_except(kick_signal());
    while let Some(mut vcpu) = wait_for_run(shared) {
        let end = run_until_request(shared, &mut vcpu, handler);
        let mut control = shared.lock();
        control.parked = Some(vcpu);
        control.ended = end.is_some();
        shared.changed.notify_all();
        if let Some(reason) = end {
            return reason;
        }
    }
    ExitReason::Stopped
}

/// Waits until the vCPU may run, and takes it; `None` when it is to stop.
fn wait_for_run(shared: &Shared) -> Option<Vcpu> {
    let mut control = shared.lock();
    loop {
        match control.request {
            Request::Run => return control.parked.take(),
            Request::Pause => control = shared.wait(control),
            Request::Stop => return None,
        }
    }
}

/// Serves exits until another request than [`Request::Run`] is made or the vCPU ends.
fn run_until_request<H: ExitHandler>(
    shared: &Shared,
    vcpu: &mut Vcpu,
    handler: &H,
) -> Option<ExitReason> {
    loop {
        match vcpu.step(handler) {
            Step::Continue => {}
            Step::End(reason) => return Some(reason),
            Step::Interrupted => {
                shared.page.set_immediate_exit(false);
                if shared.lock().request != Request::Run {
                    return None;
                }
            }
        }
    }
}

fn install_kick_handler() -> errno::Result<()> {
    // The signal only has to end KVM_RUN: nothing is left to do for its handler.
    extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

    static INSTALLED: OnceLock<errno::Result<()>> = OnceLock::new();
    *INSTALLED.get_or_init(|| register_signal_handler(kick_signal(), on_kick))
}
