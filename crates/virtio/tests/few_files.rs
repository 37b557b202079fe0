//! A device whose workers can not all be had. The host's open files are those of the whole process,
//! which is why this test has one of its own.

#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use strata_virtio::test_utils::MockDriver;
use strata_virtio::{Activation, Assignment, Chain, Context, Device, DeviceType, Error, Worker};

const QUEUES: [u16; 4] = [16; 4];

#[derive(Default)]
struct Host {
    /// Whether files are to be few.
    few: AtomicBool,
    /// Files that can still be opened then.
    left: AtomicUsize,
    workers: AtomicUsize,
}

struct Echo(Arc<Host>, Arc<std::sync::Mutex<Vec<File>>>);

impl Device for Echo {
    fn device_type(&self) -> DeviceType {
        DeviceType::BLOCK
    }

    fn name(&self) -> &str {
        "echo"
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUES
    }

    fn features(&self) -> u64 {
        0
    }

    fn activate(&mut self, activation: Activation) -> Result<Vec<Assignment>, Error> {
        if self.0.few.load(Ordering::SeqCst) {
            let mut taken = self.1.lock().unwrap();
            while let Ok(file) = File::open("/dev/null") {
                taken.push(file);
            }
            let rest = taken.len() - self.0.left.load(Ordering::SeqCst);
            taken.truncate(rest);
        }
        let queues = activation.queues.into_iter();
        let assignments = queues.map(|queue| {
            self.0.workers.fetch_add(1, Ordering::SeqCst);
            let worker = Box::new(EchoWorker(Arc::clone(&self.0), Chain::new()));
            Assignment {
                queues: vec![queue],
                worker,
            }
        });
        Ok(assignments.collect())
    }
}

struct EchoWorker(Arc<Host>, Chain);

impl Worker for EchoWorker {
    fn kicked(&mut self, queue: usize, context: &mut Context<'_>) -> Result<(), Error> {
        let queue = &mut context.queues[queue];
        while queue.pop(&mut self.1)? {
            queue.push(self.1.head(), 0)?;
        }
        queue.notify()
    }
}

impl Drop for EchoWorker {
    fn drop(&mut self) {
        self.0.workers.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn a_device_with_some_of_its_workers_is_broken_and_pauses_as_any_other() {
    let limit = libc::rlimit {
        rlim_cur: 256,
        rlim_max: 256,
    };
    // SAFETY: the limit lives through the call.
    assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
    let host = Arc::new(Host::default());
    let taken = Arc::default();
    let mut driver = MockDriver::new(Box::new(Echo(Arc::clone(&host), Arc::clone(&taken))));
    let (mut partly, mut whole) = (0, 0);
    for left in 0..20 {
        host.left.store(left, Ordering::SeqCst);
        host.few.store(true, Ordering::SeqCst);
        driver.start(u64::MAX);
        host.few.store(false, Ordering::SeqCst);
        taken.lock().unwrap().clear();
        let broken = driver.needs_reset();
        match (broken, host.workers.load(Ordering::SeqCst)) {
            (true, 1..) => partly += 1,
            (false, workers) => {
                assert_eq!(workers, QUEUES.len());
                whole += 1;
            }
            (true, _) => {}
        }
        for _ in 0..2 {
            driver.device().pause().unwrap();
            driver.device().resume().unwrap();
        }
        assert_eq!(driver.needs_reset(), broken);
        for queue in 0..QUEUES.len() as u16 {
            let head = driver.add(queue, &[b"x"], &[]);
            driver.force_kick(queue);
            if !broken {
                assert_eq!(driver.wait_used(queue).head, head);
            }
        }
        // Nothing is served before the reset.
        std::thread::sleep(std::time::Duration::from_millis(if broken {
            10
        } else {
            0
        }));
        for queue in 0..QUEUES.len() as u16 {
            assert!(driver.take_used(queue).is_none());
        }
        driver.reset();
        assert_eq!(host.workers.load(Ordering::SeqCst), 0);
        driver.start(u64::MAX);
        assert!(!driver.needs_reset());
        assert_eq!(driver.request(3, &[b"x"], &[]).len, 0);
        driver.reset();
    }
    assert!(partly > 1 && whole > 1, "{partly} {whole}");
}
