//! Cards on taps, and whole guests: a network stack behind a card.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use strata_net::test_utils::{MockNic, Namespace};
use strata_net::{
    Backend, Card, CardConfig, InterfaceName, Link, Offloads, RateLimit, Tap, features,
};

/// Features of a driver that knows everything.
pub(crate) const ALL: u64 = u64::MAX;

pub(crate) fn config() -> CardConfig {
    CardConfig {
        name: "net0".to_owned(),
        mac: "52:54:00:12:34:56".parse().unwrap(),
        mtu: 1500,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    }
}

/// A tap in `host` that is up, with an address if one is given.
pub(crate) fn tap(
    host: &Namespace,
    name: &str,
    queues: u16,
    mtu: u16,
    address: Option<&str>,
) -> Tap {
    let parsed: InterfaceName = name.parse().unwrap();
    let tap = host.run(|| Tap::open(Some(&parsed), queues)).unwrap();
    host.ip(&format!("link set {name} addrgenmode none"))
        .unwrap();
    host.ip(&format!("link set {name} up mtu {mtu}")).unwrap();
    if let Some(address) = address {
        host.ip(&format!("address add {address} dev {name}"))
            .unwrap();
    }
    tap
}

/// Polls until `get` yields something.
pub(crate) fn wait<T>(what: &str, mut get: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(value) = get() {
            return value;
        }
        assert!(Instant::now() < end, "it does not come: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// A network stack (a namespace) whose only interface is a card of the host's: its frames go
/// through a second tap to the mock driver, and so through the rings and the card.
pub(crate) struct Guest {
    pub(crate) stack: Namespace,
    pub(crate) link: Link,
    stop: Arc<AtomicBool>,
    pump: Option<JoinHandle<MockNic>>,
}

impl Guest {
    /// The guest at `address`, behind `tap`.
    pub(crate) fn new(tap: Tap, config: CardConfig, address: &str, features: u64) -> Self {
        Self::new_on(tap.into_backend(), config, address, features)
    }

    /// The guest at `address`, behind any backend.
    pub(crate) fn new_on(
        backend: Backend,
        config: CardConfig,
        address: &str,
        features: u64,
    ) -> Self {
        let stack = Namespace::new().unwrap();
        let mtu = config.mtu;
        let inner = self::tap(&stack, "eth0", 1, mtu, Some(address));
        if features & features::HOST_TSO4 != 0 {
            // The guest's own stack leaves to the host what it can.
            inner.queues()[0]
                .set_offloads(Offloads::ALL_BUT_USO)
                .unwrap();
        }
        let card = Card::new(config, backend).unwrap();
        let link = card.link();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let pump = std::thread::spawn(move || {
            let nic = MockNic::new(card, features, 2048);
            pump(nic, &inner, &stopped)
        });
        Self {
            stack,
            link,
            stop,
            pump: Some(pump),
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let nic = self.pump.take().map(JoinHandle::join);
        if let Some(Ok(mut nic)) = nic {
            assert!(!nic.driver().needs_reset(), "the card is broken");
        }
    }
}

fn pump(mut nic: MockNic, inner: &Tap, stop: &AtomicBool) -> MockNic {
    let mut file = File::from(inner.queues()[0].as_fd().try_clone_to_owned().unwrap());
    let mut frame = vec![0; 0x1_1000];
    let mut waiting: Option<usize> = None;
    while !stop.load(Ordering::Relaxed) {
        let mut idle = true;
        if waiting.is_none() {
            match file.read(&mut frame) {
                Ok(len) => waiting = Some(len),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
        if let Some(len) = waiting
            && nic.send(&frame[..len])
        {
            waiting = None;
            idle = false;
        }
        while let Some(frame) = nic.receive() {
            // The stack may refuse what it did not negotiate; that shows in the test.
            let _ = file.write(&frame);
            idle = false;
        }
        if idle {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    nic
}
