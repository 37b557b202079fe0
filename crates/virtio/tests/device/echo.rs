//! A device that writes what it reads: what the tests drive.

use strata_virtio::{
    Activation, Assignment, Chain, ConfigInterrupt, Context, Device, DeviceType, Error, Worker,
};

pub(crate) struct Echo {
    pub(crate) change: Option<ConfigInterrupt>,
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self { change: None }
    }
}

impl Device for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType(42)
    }

    fn name(&self) -> &str {
        "echo"
    }

    fn queue_sizes(&self) -> &[u16] {
        &[16, 256]
    }

    fn features(&self) -> u64 {
        1
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = at as u8;
        }
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        self.change = Some(change);
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        Ok(vec![Assignment {
            queues: activation.queues,
            worker: Box::new(EchoWorker::default()),
        }])
    }
}

#[derive(Default)]
struct EchoWorker {
    chain: Chain,
    buffer: Vec<u8>,
}

impl Worker for EchoWorker {
    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &mut context.queues[queue];
        let memory = queue.memory().clone();
        loop {
            queue.disable_kicks()?;
            while queue.pop(&mut self.chain)? {
                self.buffer.resize(self.chain.readable.len() as usize, 0);
                let read = self.chain.readable.read(&memory, &mut self.buffer);
                read.map_err(|source| queue.error(source))?;
                let written = self.chain.writable.write(&memory, &self.buffer);
                let written = written.map_err(|source| queue.error(source))?;
                queue.push(self.chain.head(), written as u32)?;
            }
            queue.notify()?;
            if !queue.enable_kicks()? {
                return Ok(());
            }
        }
    }
}
