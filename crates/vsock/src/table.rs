//! All connections of a device: by slot, by ports, and in the order in which they send.

use std::collections::{HashMap, VecDeque};

use crate::MAX_CONNECTIONS;
use crate::connection::{Connection, Ports};

/// The first port that the host's programs get: those below are for programs that listen.
const FIRST_PORT: u32 = 1 << 30;

/// At most [`MAX_CONNECTIONS`] connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    slots: Vec<Option<Connection>>,
    free: Vec<u32>,
    by_ports: HashMap<Ports, u32>,
    /// Connections that have something for the guest, each once.
    ready: VecDeque<u32>,
    next_port: u32,
}

impl Table {
    /// Whether there can be no more.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() >= MAX_CONNECTIONS
    }

    /// Adds a connection, whose ports nobody has. `None`, and it is closed, if there can be no more.
    pub(crate) fn insert(&mut self, connection: Connection) -> Option<u32> {
        if self.is_full() {
            return None;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        if let Some(ports) = connection.ports {
            self.by_ports.insert(ports, slot);
        }
        self.slots[slot as usize] = Some(connection);
        Some(slot)
    }

    pub(crate) fn get(&mut self, slot: u32) -> Option<&mut Connection> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn find(&self, ports: Ports) -> Option<u32> {
        self.by_ports.get(&ports).copied()
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Connection> {
        let connection = self.slots.get_mut(slot as usize)?.take()?;
        self.free.push(slot);
        if let Some(ports) = connection.ports {
            self.by_ports.remove(&ports);
        }
        if connection.queued {
            self.ready.retain(|queued| *queued != slot);
        }
        Some(connection)
    }

    /// Gives the connection in `slot` its ports, of which the host's is one that nobody has.
    pub(crate) fn ask(&mut self, slot: u32, guest: u32) {
        let ports = loop {
            let host = FIRST_PORT | self.next_port;
            // There are more ports than connections: one of them is free.
            self.next_port = (self.next_port + 1) % FIRST_PORT;
            let ports = Ports { guest, host };
            if !self.by_ports.contains_key(&ports) {
                break ports;
            }
        };
        if let Some(connection) = self.get(slot) {
            connection.ask(ports);
            self.by_ports.insert(ports, slot);
        }
    }

    /// Lets the connection in `slot` send when it is its turn, if it has something to send.
    pub(crate) fn queue(&mut self, slot: u32) {
        let connection = self.slots.get_mut(slot as usize).and_then(Option::as_mut);
        if let Some(connection) = connection
            && !connection.queued
            && connection.next().is_some()
        {
            connection.queued = true;
            self.ready.push_back(slot);
        }
    }

    /// Whether somebody waits for their turn.
    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Whose turn it is.
    pub(crate) fn pop_ready(&mut self) -> Option<u32> {
        let slot = self.ready.pop_front()?;
        if let Some(connection) = self.get(slot) {
            connection.queued = false;
        }
        Some(slot)
    }

    /// Takes all connections out.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Connection> {
        let empty = Self {
            next_port: self.next_port,
            ..Self::default()
        };
        std::mem::replace(self, empty).slots.into_iter().flatten()
    }
}
