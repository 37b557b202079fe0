#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use strata_virtio::{
    Activation, Assignment, Chain, Context, Device, DeviceType, Error, Queue, Worker,
};

/// Bytes that one request gets at most. The driver asks again (virtio 1.2, 5.4.6: the device may use
/// less of the buffer).
pub const MAX_REQUEST: usize = 4096;

/// Requests that are answered before other events have their turn.
const BATCH: usize = 16;

/// An entropy device (virtio 1.2, 5.4) with one queue.
pub struct Rng<R> {
    /// Here while no worker has it.
    source: Arc<Mutex<Option<R>>>,
}

impl Rng<File> {
    /// A device that gives away the bytes of `/dev/urandom`.
    ///
    /// # Errors
    /// Where it can not be opened.
    pub fn urandom() -> io::Result<Self> {
        Ok(Self::new(File::open("/dev/urandom")?))
    }
}

impl<R: Read + Send + 'static> Rng<R> {
    /// A device that gives away the bytes of `source`, whose reads must not block for long. A source
    /// that ends or fails breaks the device: a guest must not take anything else for random.
    pub fn new(source: R) -> Self {
        Self {
            source: Arc::new(Mutex::new(Some(source))),
        }
    }
}

impl<R: Read + Send + 'static> Device for Rng<R> {
    fn device_type(&self) -> DeviceType {
        DeviceType::RNG
    }

    fn name(&self) -> &str {
        "rng"
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        let source = lock(&self.source).take();
        let source = source.ok_or_else(|| Error::Device("its source is gone".into()))?;
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(Filler {
                source: Some(source),
                home: Arc::clone(&self.source),
                chain: Chain::new(),
            }),
        }])
    }
}

fn lock<R>(source: &Mutex<Option<R>>) -> std::sync::MutexGuard<'_, Option<R>> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Fills what the driver wants filled.
struct Filler<R> {
    source: Option<R>,
    /// Where the source goes when the device is reset.
    home: Arc<Mutex<Option<R>>>,
    chain: Chain,
}

impl<R: Read> Filler<R> {
    /// Fills the chain, or as much as a request gets, and returns how much that is.
    fn fill(&mut self, queue: &Queue) -> Result<u32, Error> {
        let mut bytes = [0; MAX_REQUEST];
        let wanted = self.chain.writable.len().min(MAX_REQUEST as u64) as usize;
        if wanted == 0 {
            // virtio 1.2, 5.4.6.1: buffers are for the device to write, and only that.
            return Err(Error::Driver("an entropy request without room for a byte"));
        }
        let bytes = &mut bytes[..wanted];
        let source = self.source.as_mut();
        let read = source.map_or(Ok(()), |source| source.read_exact(bytes));
        read.map_err(|source| Error::Io {
            action: "read the source of random bytes",
            source,
        })?;
        let written = self.chain.writable.write(queue.memory(), bytes);
        written
            .map(|written| written as u32)
            .map_err(|source| queue.error(source))
    }
}

impl<R: Read + Send> Worker for Filler<R> {
    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &mut context.queues[queue];
        for _ in 0..BATCH {
            if !queue.pop(&mut self.chain)? {
                if !queue.enable_kicks()? {
                    return queue.notify();
                }
                continue;
            }
            let written = self.fill(queue)?;
            queue.push(self.chain.head(), written)?;
        }
        queue.notify()?;
        queue.kick()
    }
}

impl<R> Drop for Filler<R> {
    fn drop(&mut self) {
        *lock(&self.home) = self.source.take();
    }
}
