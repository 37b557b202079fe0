//! The network card (virtio 1.2 §5.1).

mod config;
mod control;
pub mod features;
mod flow;
mod kernel;
#[cfg(all(test, feature = "test-utils"))]
mod lock_tests;
mod rx;
mod tx;
mod waiting;
mod worker;

use std::sync::{Arc, Mutex, PoisonError};

use strata_virtio::{Activation, Assignment, ConfigInterrupt, Device, DeviceType, Error, Queue};

use crate::limit::Limiter;
use crate::{Backend, Endpoint, HEADER_LEN, MacAddr, RateLimit, Uplink, Vhost};
use config::Config;
use control::Control;
use flow::Flow;
use kernel::{Kernel, Turns};
use rx::Receiver;
use tx::Sender;
use worker::PairWorker;

/// Entries of a receive or send queue.
const QUEUE_SIZE: u16 = 256;
const CONTROL_QUEUE_SIZE: u16 = 64;
/// Bytes before the payload of a frame: the header, Ethernet's own, and a VLAN tag.
const OVERHEAD: usize = HEADER_LEN + 14 + 4;
/// The least that IPv4 needs to go through (RFC 791), and the least MTU that a driver takes.
const MIN_MTU: u16 = 68;

/// How a card is made.
#[derive(Clone, Debug)]
pub struct CardConfig {
    /// A short name, for messages and thread names.
    pub name: String,
    /// The guest's address.
    pub mac: MacAddr,
    /// Bytes of the largest frame's payload, at least 68: that of the bridge or tap.
    pub mtu: u16,
    /// What the guest may receive.
    pub rx_limit: RateLimit,
    /// What it may send.
    pub tx_limit: RateLimit,
}

/// What has passed, and what was lost, since the card was made. Bytes are those of frames without
/// their headers of [`HEADER_LEN`](crate::HEADER_LEN).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames that the guest received.
    pub rx_frames: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Frames for the guest that did not fit its buffers, or came while the link was down.
    pub rx_dropped: u64,
    /// Times that the host's end could not be read, or gave what is no frame.
    pub rx_errors: u64,
    /// Frames that the guest sent.
    pub tx_frames: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// Frames of the guest that came while the link was down.
    pub tx_dropped: u64,
    /// Frames of the guest that the host refused.
    pub tx_errors: u64,
}

/// What the device, its workers and whoever holds a [`Link`] have in common.
struct Shared {
    config: Config,
    rx: Flow,
    tx: Flow,
    uplink: Arc<dyn Uplink>,
    rx_limit: Option<Limiter>,
    tx_limit: Option<Limiter>,
    turns: Turns,
}

impl Shared {
    fn is_limited(&self) -> bool {
        self.rx_limit.is_some() || self.tx_limit.is_some()
    }
}

/// The host's end of one pair.
struct HostEnd {
    endpoint: Box<dyn Endpoint>,
    vhost: Option<Box<dyn Vhost>>,
}

/// Where a host's end waits for its worker, and comes back to after it.
#[derive(Default)]
struct Slot(Mutex<Option<HostEnd>>);

impl Slot {
    fn put(&self, host: Option<HostEnd>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }

    fn take(&self) -> Option<HostEnd> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The cable of a card, from outside: to be pulled, plugged in, and looked at.
#[derive(Clone)]
pub struct Link(Arc<Shared>);

impl Link {
    /// Pulls the cable or plugs it in; the driver is told. While it is out, frames are dropped.
    pub fn set_up(&self, up: bool) {
        self.0.config.set_link(up);
        self.0.turns.wake();
    }

    /// Whether it is plugged in.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.0.config.is_link_up()
    }

    /// Asks the driver to tell the network where it is, as after a move to another host.
    pub fn announce(&self) {
        self.0.config.ask_to_announce();
    }

    /// Whether vhost may serve the rings, where there is one: it may, until this is called. It
    /// marks no page that it writes, so it may not while dirty pages are tracked. That it does no
    /// more is sure after the device's next pause.
    pub fn allow_vhost(&self, allowed: bool) {
        self.0.turns.allow(allowed);
    }

    /// What the guest may receive.
    #[must_use]
    pub fn rx_limit(&self) -> RateLimit {
        limit_of(&self.0.rx_limit)
    }

    /// What it may send.
    #[must_use]
    pub fn tx_limit(&self) -> RateLimit {
        limit_of(&self.0.tx_limit)
    }

    /// What has passed through this process: what vhost moves, the counters of its tap know.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let (rx, tx) = (self.0.rx.read(), self.0.tx.read());
        Statistics {
            rx_frames: rx.frames,
            rx_bytes: rx.bytes,
            rx_dropped: rx.dropped,
            rx_errors: rx.errors,
            tx_frames: tx.frames,
            tx_bytes: tx.bytes,
            tx_dropped: tx.dropped,
            tx_errors: tx.errors,
        }
    }
}

fn limit_of(limiter: &Option<Limiter>) -> RateLimit {
    limiter.as_ref().map(Limiter::limit).unwrap_or_default()
}

/// The network card: a queue pair for each endpoint of its backend, and a control queue.
pub struct Card {
    name: String,
    sizes: Vec<u16>,
    features: u64,
    slots: Vec<Arc<Slot>>,
    shared: Arc<Shared>,
}

impl Card {
    /// A card with `backend` as its host end.
    ///
    /// # Errors
    /// [`Error::InvalidMtu`](crate::Error::InvalidMtu) below 68,
    /// [`Error::NoEndpoint`](crate::Error::NoEndpoint), and, with vhost,
    /// [`Error::VhostLimited`](crate::Error::VhostLimited) and
    /// [`Error::Vhost`](crate::Error::Vhost).
    pub fn new(config: CardConfig, backend: Backend) -> Result<Self, crate::Error> {
        if config.mtu < MIN_MTU {
            return Err(crate::Error::InvalidMtu { mtu: config.mtu });
        }
        let pairs = u16::try_from(backend.endpoints.len()).unwrap_or(0);
        if pairs == 0 || pairs > MAX_PAIRS {
            return Err(crate::Error::NoEndpoint {
                count: backend.endpoints.len(),
            });
        }
        let mut sizes = vec![QUEUE_SIZE; usize::from(pairs) * 2];
        sizes.push(CONTROL_QUEUE_SIZE);
        let mut features = FEATURES | features::of_offloads(backend.uplink.known_offloads());
        if pairs > 1 {
            features |= features::MQ;
        }
        let limits = [config.rx_limit, config.tx_limit];
        if !backend.vhost.is_empty() && limits != [RateLimit::default(); 2] {
            return Err(crate::Error::VhostLimited);
        }
        let turns = Turns::new(backend.vhost.len());
        let turns = turns.map_err(|source| crate::Error::Vhost { source })?;
        let mut vhost = backend.vhost.into_iter();
        let slots = backend.endpoints.into_iter().map(|endpoint| {
            let slot = Slot::default();
            let vhost = vhost.next();
            slot.put(Some(HostEnd { endpoint, vhost }));
            Arc::new(slot)
        });
        Ok(Self {
            name: config.name,
            sizes,
            features,
            slots: slots.collect(),
            shared: Arc::new(Shared {
                config: Config::new(config.mac, pairs, config.mtu),
                rx: Flow::default(),
                tx: Flow::default(),
                uplink: backend.uplink,
                rx_limit: Limiter::new(config.rx_limit),
                tx_limit: Limiter::new(config.tx_limit),
                turns,
            }),
        })
    }

    /// The card's cable.
    #[must_use]
    pub fn link(&self) -> Link {
        Link(Arc::clone(&self.shared))
    }

    fn worker(
        &self,
        features: u64,
        pair: usize,
        slot: &Arc<Slot>,
        control: Option<Control>,
    ) -> Result<PairWorker, Error> {
        let mergeable = features & features::MRG_RXBUF != 0;
        let wanted = if features::takes_large_frames(features) {
            usize::from(u16::MAX) + OVERHEAD
        } else {
            usize::from(self.shared.config.mtu()) + OVERHEAD
        };
        let host = slot.take().ok_or(Error::State("an endpoint is in use"))?;
        let turn = self.shared.turns.of_pair(pair);
        let kernel = host.vhost.zip(turn);
        let kernel = kernel.map(|(vhost, turn)| Kernel::new(vhost, turn, features));
        let shared = || Arc::clone(&self.shared);
        PairWorker::new(
            Receiver::new(shared(), mergeable, wanted),
            Sender::new(shared()),
            control,
            host.endpoint,
            kernel,
            Arc::clone(slot),
            shared(),
        )
    }
}

/// Queue pairs that a card may have: the driver's numbers of queues are 16 bits wide, and the
/// transport's vectors fewer (virtio 1.2 §5.1.6.5.5).
const MAX_PAIRS: u16 = 256;

/// What is offered whatever the host can do.
const FEATURES: u64 = features::MTU
    | features::MAC
    | features::MRG_RXBUF
    | features::STATUS
    | features::CTRL_VQ
    | features::CTRL_RX
    | features::CTRL_GUEST_OFFLOADS
    | features::GUEST_ANNOUNCE
    | features::CTRL_MAC_ADDR;

impl Device for Card {
    fn device_type(&self) -> DeviceType {
        DeviceType::NET
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        self.shared.config.read(offset, data);
    }

    fn attach(&mut self, change: ConfigInterrupt) {
        self.shared.config.attach(change);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<Vec<Assignment>, Error> {
        let features = activation.features;
        let io = |action| move |source| Error::Io { action, source };
        let offloads = features::guest_offloads(features);
        let uplink = &self.shared.uplink;
        uplink
            .set_offloads(offloads)
            .map_err(io("set a card's offloads"))?;
        // The driver asks for more by a command (virtio 1.2 §5.1.6.5.5).
        uplink
            .set_pairs(1)
            .map_err(io("set a card's queue pairs"))?;
        // Without MQ the control queue is the third (virtio 1.2 §5.1.2).
        let control_index = match u16::try_from(self.slots.len()) {
            Ok(pairs) if activation.has(features::MQ) => pairs * 2,
            _ => 2,
        };
        let mut control_queue = None;
        if activation.has(features::CTRL_VQ) {
            control_queue = activation.take(control_index);
        }
        let mut assignments = Vec::new();
        for (slot, pair) in self.slots.iter().zip(0_u16..) {
            let queues = (activation.take(pair * 2), activation.take(pair * 2 + 1));
            let (Some(rx), Some(tx)) = queues else {
                break;
            };
            let mut queues: Vec<Queue> = vec![rx, tx];
            let mut control = None;
            if let Some(queue) = control_queue.take() {
                queues.push(queue);
                control = Some(Control::new(Arc::clone(&self.shared), features));
            }
            let worker = self.worker(features, pair.into(), slot, control)?;
            assignments.push(Assignment {
                queues,
                worker: Box::new(worker),
            });
        }
        Ok(assignments)
    }

    fn reset(&mut self) {
        self.shared.config.reset();
    }
}
