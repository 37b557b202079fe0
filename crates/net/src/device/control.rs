//! The control queue (virtio 1.2 §5.1.6.5): rare commands of the driver.

use std::sync::Arc;

use strata_virtio::{Chain, Error, Queue};

use super::Shared;
use super::features::{self, SWITCHABLE};
use crate::MacAddr;

const OK: u8 = 0;
const ERR: u8 = 1;

const RX: u8 = 0;
const RX_LAST: u8 = 5;
const MAC: u8 = 1;
const MAC_TABLE_SET: u8 = 0;
const MAC_ADDR_SET: u8 = 1;
const ANNOUNCE: u8 = 3;
const ANNOUNCE_ACK: u8 = 0;
const MQ: u8 = 4;
const MQ_VQ_PAIRS_SET: u8 = 0;
const GUEST_OFFLOADS: u8 = 5;
const GUEST_OFFLOADS_SET: u8 = 0;

/// The largest command that is read: filter tables may be larger, and are not looked at.
const COMMAND_LEN: usize = 16;
/// Commands that one call serves.
const BUDGET: usize = 16;

/// Serves the control queue.
pub(super) struct Control {
    shared: Arc<Shared>,
    features: u64,
    chain: Chain,
}

impl Control {
    pub(super) fn new(shared: Arc<Shared>, features: u64) -> Self {
        Self {
            shared,
            features,
            chain: Chain::new(),
        }
    }

    pub(super) fn serve(&mut self, queue: &mut Queue) -> Result<(), Error> {
        for _ in 0..BUDGET {
            while !queue.pop(&mut self.chain)? {
                queue.notify()?;
                // Otherwise the driver would not kick for its next command.
                if !queue.enable_kicks()? {
                    return Ok(());
                }
            }
            let mut command = [0; COMMAND_LEN];
            let memory = queue.memory();
            let read = self.chain.readable.read(memory, &mut command);
            let len = read.map_err(|error| queue.error(error))?;
            let ack = self.execute(command.get(..len).unwrap_or_default());
            let answer = self.chain.writable.write_obj(queue.memory(), ack);
            answer.map_err(|error| queue.error(error))?;
            queue.push(self.chain.head(), 1)?;
        }
        queue.notify()?;
        queue.kick()
    }

    /// Executes a command and returns its acknowledgement.
    fn execute(&self, command: &[u8]) -> u8 {
        let Some((&[class, command], data)) = command.split_first_chunk() else {
            return ERR;
        };
        let done = match (class, command) {
            // Every frame is handed on, so every choice of more or fewer of them is honoured
            // enough (virtio 1.2 §5.1.6.5.1: the device may receive more).
            (RX, 0..=RX_LAST) | (MAC, MAC_TABLE_SET) => self.has(features::CTRL_RX).then_some(()),
            (MAC, MAC_ADDR_SET) => self.set_mac(data),
            (ANNOUNCE, ANNOUNCE_ACK) if self.has(features::GUEST_ANNOUNCE) => {
                self.shared.config.announced();
                Some(())
            }
            (MQ, MQ_VQ_PAIRS_SET) => self.set_pairs(data),
            (GUEST_OFFLOADS, GUEST_OFFLOADS_SET) => self.set_offloads(data),
            _ => None,
        };
        if done.is_some() { OK } else { ERR }
    }

    fn has(&self, feature: u64) -> bool {
        self.features & feature != 0
    }

    fn set_mac(&self, data: &[u8]) -> Option<()> {
        let mac = MacAddr::new(*data.first_chunk()?).ok()?;
        self.has(features::CTRL_MAC_ADDR).then_some(())?;
        self.shared.config.set_mac(mac.bytes());
        Some(())
    }

    fn set_pairs(&self, data: &[u8]) -> Option<()> {
        let pairs = u16::from_le_bytes(*data.first_chunk()?);
        let offered = 1..=self.shared.config.max_pairs();
        (self.has(features::MQ) && offered.contains(&pairs)).then_some(())?;
        let set = self.shared.uplink.set_pairs(pairs);
        set.inspect_err(|error| log::warn!("can not use {pairs} queue pairs: {error}"))
            .ok()
    }

    fn set_offloads(&self, data: &[u8]) -> Option<()> {
        let wanted = u64::from_le_bytes(*data.first_chunk()?);
        self.has(features::CTRL_GUEST_OFFLOADS).then_some(())?;
        // Only what was negotiated can be switched on (virtio 1.2 §5.1.6.5.6.2).
        (wanted & !(self.features & SWITCHABLE) == 0).then_some(())?;
        let offloads = features::guest_offloads(wanted);
        let set = self.shared.uplink.set_offloads(offloads);
        set.inspect_err(|error| log::warn!("can not change offloads: {error}"))
            .ok()
    }
}
