//! A pseudo-terminal, to see what a person at a terminal sees.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::PATIENCE;

/// A terminal with a program on it.
pub struct Pty {
    master: File,
    slave: OwnedFd,
    seen: Vec<u8>,
}

impl Pty {
    /// Opens a pseudo-terminal.
    pub fn new() -> Self {
        let (mut master, mut slave) = (0, 0);
        let null = std::ptr::null_mut();
        // SAFETY: both descriptors are writable integers; name, termios and size are not asked for.
        let status =
            unsafe { libc::openpty(&mut master, &mut slave, null, null.cast(), null.cast()) };
        assert_eq!(status, 0);
        // SAFETY: openpty has made the descriptor, and nobody else owns it.
        let master = unsafe { File::from_raw_fd(master) };
        // SAFETY: as above.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        Self {
            master,
            slave,
            seen: Vec::new(),
        }
    }

    /// Starts `command` on this terminal: input, output and errors.
    pub fn spawn(&self, mut command: Command) -> Child {
        let end = || Stdio::from(self.slave.try_clone().unwrap());
        command
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap()
    }

    /// Types `bytes`.
    pub fn write(&mut self, bytes: &[u8]) {
        self.master.write_all(bytes).unwrap();
    }

    /// Reads until `text` has been seen, behind what earlier calls were waiting for.
    pub fn expect(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let seen = String::from_utf8_lossy(&self.seen).into_owned();
            if let Some(at) = seen.find(text) {
                self.seen = seen.as_bytes()[at + text.len()..].to_vec();
                return;
            }
            assert!(Instant::now() < deadline, "no {text:?} in {seen:?}");
            self.read_some();
        }
    }

    fn read_some(&mut self) {
        let mut poll = libc::pollfd {
            fd: self.master.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // SAFETY: one writable pollfd.
        if unsafe { libc::poll(&mut poll, 1, 100) } > 0 {
            let mut bytes = [0; 4096];
            let count = self.master.read(&mut bytes).unwrap_or(0);
            self.seen.extend(&bytes[..count]);
        }
    }

    /// The terminal's settings, as they compare.
    pub fn settings(&self) -> (u32, u32, u32, u32) {
        let termios = self.termios();
        (
            termios.c_iflag,
            termios.c_oflag,
            termios.c_cflag,
            termios.c_lflag,
        )
    }

    /// Puts the terminal into cooked mode, as a shell does when a job stops.
    pub fn set_cooked(&self) {
        let mut termios = self.termios();
        termios.c_lflag |= libc::ICANON | libc::ECHO | libc::ISIG;
        termios.c_oflag |= libc::OPOST;
        // SAFETY: `termios` is initialized.
        let status = unsafe { libc::tcsetattr(self.slave.as_raw_fd(), libc::TCSANOW, &termios) };
        assert_eq!(status, 0);
    }

    fn termios(&self) -> libc::termios {
        let mut termios = std::mem::MaybeUninit::<libc::termios>::uninit();
        // SAFETY: `termios` is writable.
        let status = unsafe { libc::tcgetattr(self.slave.as_raw_fd(), termios.as_mut_ptr()) };
        assert_eq!(status, 0);
        // SAFETY: tcgetattr succeeded.
        unsafe { termios.assume_init() }
    }
}
