//! Networks: host ends by name, and the cables of cards.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use strata_net::{InterfaceName, RateLimit};
use strata_qmp::{Commands, Error, NoArguments};

use super::device::{config, rename, take_text};
use super::{Control, check_id, qom_path};
use crate::config::NetConfig;

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands
        .with("netdev_add", Control::netdev_add)
        .with("netdev_del", Control::netdev_del)
        .with("set_link", Control::set_link)
        .with("x-query-netstats", Control::query_netstats)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Id {
    id: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetLink {
    name: String,
    up: bool,
}

impl Control {
    /// Gives a host end a name. It is connected when a card is added on it, and again for the next
    /// card.
    fn netdev_add(&mut self, mut arguments: Map<String, Value>) -> Result<(), Error> {
        let id = take_text(&mut arguments, "id")?;
        let id = id.ok_or_else(|| Error::generic("'id' is missing"))?;
        check_id(&id)?;
        let kind = take_text(&mut arguments, "type")?;
        match kind.as_deref() {
            Some("tap") => {
                rename(&mut arguments, "ifname", "tap");
                rename(&mut arguments, "br", "bridge");
                for script in ["script", "downscript"] {
                    match take_text(&mut arguments, script)?.as_deref() {
                        None | Some("no" | "") => {}
                        _ => return Err(Error::generic("strata runs no scripts for a tap")),
                    }
                }
            }
            Some("bridge") => rename(&mut arguments, "br", "bridge"),
            Some("user" | "passt") => {
                arguments.insert("user".to_owned(), true.into());
                if let Some(Value::Array(forwards)) = arguments.get_mut("hostfwd") {
                    forwards.iter_mut().for_each(unwrap_text);
                }
            }
            _ => {
                return Err(Error::generic(
                    "the types of netdev are tap, bridge and user",
                ));
            }
        }
        if self.netdevs.contains_key(&id) {
            return Err(Error::generic(format_args!(
                "there is a netdev {id} already"
            )));
        }
        let config: NetConfig = config(arguments)?;
        self.netdevs.insert(id, config);
        Ok(())
    }

    fn netdev_del(&mut self, Id { id }: Id) -> Result<(), Error> {
        self.netdev(&id)?;
        if let Some(user) = self.netdev_user(&id) {
            return Err(Error::generic(format_args!(
                "the netdev {id} is in use by {user}"
            )));
        }
        self.netdevs.remove(&id);
        Ok(())
    }

    /// Pulls a card's cable or plugs it in, by the card's name or its netdev's.
    fn set_link(&mut self, SetLink { name, up }: SetLink) -> Result<(), Error> {
        let mut cards = self.parts.nets.list().into_iter();
        let is_meant = |netdev: &Option<String>| netdev.as_ref() == Some(&name);
        let card = cards.find(|card| card.id == name || is_meant(&card.netdev));
        let card = card.ok_or_else(|| Error::device_not_found(&name))?;
        card.link.set_up(up);
        Ok(())
    }

    /// What passed through each card, as `query-blockstats` has it for disks. QEMU has no such
    /// command: `x-` is QMP's prefix of names that promise nothing.
    fn query_netstats(&mut self, _: NoArguments) -> Result<Value, Error> {
        let cards = self.parts.nets.list().into_iter().map(|card| {
            let stats = card.link.statistics();
            json!({
                "device": card.id,
                "qdev": qom_path(&card.id),
                "netdev": card.netdev,
                "ifname": card.tap.as_ref().map(InterfaceName::as_str),
                "vhost": card.vhost,
                "mac": card.mac.to_string(),
                "link": card.link.is_up(),
                "rx-limit": limit(card.link.rx_limit()),
                "tx-limit": limit(card.link.tx_limit()),
                "stats": {
                    "rx_bytes": stats.rx_bytes,
                    "rx_packets": stats.rx_frames,
                    "rx_errors": stats.rx_errors,
                    "rx_dropped": stats.rx_dropped,
                    "tx_bytes": stats.tx_bytes,
                    "tx_packets": stats.tx_frames,
                    "tx_errors": stats.tx_errors,
                    "tx_dropped": stats.tx_dropped,
                },
            })
        });
        Ok(cards.collect())
    }

    pub(super) fn netdev(&self, name: &str) -> Result<&NetConfig, Error> {
        let netdev = self.netdevs.get(name);
        netdev.ok_or_else(|| Error::device_not_found(name))
    }

    /// The card that is on this netdev.
    pub(super) fn netdev_user(&self, name: &str) -> Option<String> {
        let mut cards = self.parts.nets.list().into_iter();
        let card = cards.find(|card| card.netdev.as_deref() == Some(name));
        card.map(|card| card.id)
    }
}

/// 0 is none, as in `query-block`.
fn limit(limit: RateLimit) -> Value {
    json!({
        "bps": limit.bytes.unwrap_or_default(),
        "pps": limit.frames.unwrap_or_default(),
    })
}

/// QEMU's clients put each forward into an object.
fn unwrap_text(forward: &mut Value) {
    if let Some(text) = forward.get_mut("str").map(Value::take) {
        *forward = text;
    }
}
