//! The kernel's answers, for the fuzzer.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use crate::bridge::ipconfig::IpConfig;
use crate::netlink::{Address, Link, LinkObject, Message, Neighbour, Object, Route};

/// Takes a datagram apart as an answer of rtnetlink's, and makes of what is in it what the bridges
/// make of it; returns how many entries of tables were understood.
///
/// # Panics
/// When an entry or a message comes out otherwise than it went in.
pub fn read_netlink(datagram: &[u8]) -> usize {
    let mut links: Vec<LinkObject> = Vec::new();
    let mut neighbours: Vec<Neighbour> = Vec::new();
    let mut config = IpConfig {
        addresses: Vec::new(),
        routes: Vec::new(),
    };
    let mut rest = datagram;
    while let Ok((message, next)) = Message::split(rest) {
        assert!(next.len() < rest.len(), "no end");
        rest = next;
        match message.kind {
            LinkObject::NEW => take(&message, &mut links),
            Neighbour::NEW => take(&message, &mut neighbours),
            Address::NEW => take(&message, &mut config.addresses),
            Route::NEW => take(&message, &mut config.routes),
            _ => {}
        }
    }
    let reachable = neighbours.iter().filter(|entry| entry.is_reachable());
    assert!(reachable.count() <= neighbours.len());
    let _ = (config.immovable(), config.gateways());
    for object in links.iter().take(4) {
        let link = Link::new(object);
        for change in config.changes_for(&link) {
            let (message, rest) = Message::split(&change.message).unwrap();
            assert!(rest.is_empty(), "{}", change.what);
            let kinds = [Address::NEW, Route::NEW];
            assert!(kinds.contains(&message.kind), "{}", change.what);
        }
        let uses = |route: &&Route| route.uses(link.index);
        assert!(config.routes.iter().filter(uses).count() <= config.routes.len());
    }
    links.len() + neighbours.len() + config.addresses.len() + config.routes.len()
}

/// Keeps the entry that a message tells of, if it is one.
fn take<T: Object + PartialEq + Debug>(message: &Message<'_>, to: &mut Vec<T>) {
    if let Ok(object) = T::decode(message.payload) {
        assert_eq!(T::decode(&object.encode()).unwrap(), object);
        to.push(object);
    }
}
