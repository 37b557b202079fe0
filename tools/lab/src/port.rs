//! The host's end of the port to level 1's agent.

use std::collections::HashMap;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::protocol::{Frame, Kind, Spawn};

type Routes = Arc<Mutex<HashMap<u32, Sender<Frame>>>>;
type Writer = Arc<Mutex<UnixStream>>;

/// Sends requests, and hands each process its frames.
#[derive(Debug)]
pub(crate) struct Port {
    writer: Writer,
    routes: Routes,
    ready: Receiver<()>,
    next: AtomicU32,
}

/// One process' way through the port. Its frames end with the port.
#[derive(Debug)]
pub(crate) struct Channel {
    id: u32,
    writer: Writer,
    routes: Routes,
    pub(crate) frames: Receiver<Frame>,
}

impl Port {
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        let mut input = stream
            .try_clone()
            .map_err(Error::file("share", "the agent's socket"))?;
        let routes = Routes::default();
        let (sender, ready) = mpsc::channel();
        let table = Arc::clone(&routes);
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut input) {
                if frame.kind == Kind::Ready {
                    // Nobody waits for a level 1 that was restored.
                    let _ = sender.send(());
                }
                let mut table = lock(&table);
                let last = frame.kind == Kind::Exit;
                let id = frame.id;
                if let Some(route) = table.get(&id) {
                    // A process whose owner has gone has no use for its frames.
                    let _ = route.send(frame);
                }
                if last {
                    table.remove(&id);
                }
            }
            // No sender is left then, so every receiver hears of the end.
            lock(&table).clear();
        });
        Ok(Self {
            writer: Arc::new(Mutex::new(stream)),
            routes,
            ready,
            next: AtomicU32::new(1),
        })
    }

    pub(crate) fn wait_ready(&self, limit: Duration) -> bool {
        self.ready.recv_timeout(limit).is_ok()
    }

    pub(crate) fn spawn(&self, spawn: &Spawn) -> io::Result<Channel> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, frames) = mpsc::channel();
        lock(&self.routes).insert(id, sender);
        let (writer, routes) = (Arc::clone(&self.writer), Arc::clone(&self.routes));
        let channel = Channel {
            id,
            writer,
            routes,
            frames,
        };
        channel.send(Kind::Spawn, &spawn.encode())?;
        Ok(channel)
    }
}

impl Channel {
    pub(crate) fn send(&self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        Frame::new(kind, self.id, payload).write(&mut *lock(&self.writer))
    }

    pub(crate) fn sender(&self) -> impl Fn(Kind, &[u8]) -> io::Result<()> + Send + 'static {
        let (id, writer) = (self.id, Arc::clone(&self.writer));
        move |kind, payload| Frame::new(kind, id, payload).write(&mut *lock(&writer))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        lock(&self.routes).remove(&self.id);
    }
}

/// A thread that died holding the lock has left nothing half done: both values are whole always.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
