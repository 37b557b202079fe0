//! Network cards: `bridge=BR`, `tap=NAME`, `fd=N` or `user`, and what goes with each.

use serde::{Deserialize, Serialize};
use strata_net::{Forward, InterfaceName, MacAddr};

use super::options::{self, FromText, Options, options};

impl FromText for MacAddr {
    const EXPECTED: &'static str = "a MAC address as 52:54:00:12:34:56";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: strata_net::Error| error.to_string())
    }
}

impl FromText for InterfaceName {
    const EXPECTED: &'static str = "the name of a network interface";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: strata_net::Error| error.to_string())
    }
}

/// Whether the host's kernel moves a card's frames by itself (vhost-net).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vhost {
    /// It does, or there is no card.
    On,
    /// It does not: the default, as no measurement has yet shown that a usual guest gains by it.
    #[default]
    Off,
    /// It does where the host offers it.
    Auto,
}

impl FromText for Vhost {
    const EXPECTED: &'static str = "on, off or auto";
    const IS_SWITCH: bool = true;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            _ => match bool::from_text(text) {
                Ok(true) => Ok(Self::On),
                Ok(false) => Ok(Self::Off),
                Err(_) => Err(format!(
                    "{} should stand there, not \"{text}\"",
                    Self::EXPECTED
                )),
            },
        }
    }
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NetConfig {
    /// Its name in messages and commands; net0 and so on where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The bridge that its tap is put on.
    #[serde(
        deserialize_with = "options::some",
        serialize_with = "options::print",
        skip_serializing_if = "Option::is_none"
    )]
    pub bridge: Option<InterfaceName>,
    /// The tap's name; the kernel chooses one where a bridge is named and none is given.
    #[serde(
        deserialize_with = "options::some",
        serialize_with = "options::print",
        skip_serializing_if = "Option::is_none"
    )]
    pub tap: Option<InterfaceName>,
    /// The descriptor of an open tap that strata has inherited.
    #[serde(
        deserialize_with = "options::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub fd: Option<i32>,
    /// Whether passt connects it, without any privilege.
    #[serde(deserialize_with = "options::value")]
    pub user: bool,
    /// With `user`, ports of the host that lead to the guest: `tcp:[ADDR]:PORT-[ADDR]:PORT`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostfwd: Vec<String>,
    /// Its address; a random one where none is given.
    #[serde(
        deserialize_with = "options::some",
        serialize_with = "options::print",
        skip_serializing_if = "Option::is_none"
    )]
    pub mac: Option<MacAddr>,
    /// The largest frame's payload, told to the guest.
    #[serde(
        deserialize_with = "options::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub mtu: Option<u16>,
    /// How many pairs of queues, each with a thread of its own.
    #[serde(
        deserialize_with = "options::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub queues: Option<u16>,
    /// Whether the host's kernel moves its frames by itself.
    #[serde(deserialize_with = "options::value")]
    pub vhost: Vhost,
}

impl Options for NetConfig {
    const HEADS: &'static [&'static str] = &[];
    const LISTS: &'static [&'static str] = &["hostfwd"];
    const WHAT: &'static str = "net";

    fn check(&self) -> Result<(), String> {
        self.id.as_deref().map_or(Ok(()), options::check_id)?;
        let ways = [
            self.bridge.is_some(),
            self.tap.is_some() && self.bridge.is_none(),
            self.fd.is_some(),
            self.user,
        ];
        if ways.iter().filter(|way| **way).count() != 1 {
            return Err(
                "say one of bridge=NAME (and tap=NAME, if its tap needs a name), tap=NAME, \
                 fd=N, and user"
                    .to_owned(),
            );
        }
        if !self.hostfwd.is_empty() && !self.user {
            return Err(
                "hostfwd goes with user; a bridge's guests have ports of their own".to_owned(),
            );
        }
        if self.vhost == Vhost::On && self.user {
            return Err("vhost goes with a tap; leave vhost=on out, or name a bridge".to_owned());
        }
        if self
            .queues
            .is_some_and(|queues| !(1..=64).contains(&queues))
        {
            return Err("1 to 64 queues".to_owned());
        }
        if self.queues.is_some_and(|queues| queues > 1) && (self.user || self.fd.is_some()) {
            return Err("several queues go with bridge and tap; leave queues out".to_owned());
        }
        self.forwards()?;
        if self.mtu.is_some_and(|mtu| mtu < 68) {
            return Err("the mtu is at least 68 (IPv4's smallest)".to_owned());
        }
        Ok(())
    }
}

options!(NetConfig);

impl NetConfig {
    /// The ports of the host that lead to the guest.
    pub fn forwards(&self) -> Result<Vec<Forward>, String> {
        let forwards = self.hostfwd.iter().map(|text| text.parse());
        forwards
            .collect::<Result<_, strata_net::Error>>()
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_key() {
        for text in [
            "bridge=br0",
            "bridge=br0,tap=web,mac=52:54:00:12:34:56,mtu=9000,queues=2,id=lan",
            "tap=tap0",
            "tap=tap0,vhost",
            "tap=tap0,vhost=auto",
            "fd=7",
            "fd=7,queues=1",
            "user",
            "user,hostfwd=tcp::2222-:22,hostfwd=udp:127.0.0.1:53-:53",
        ] {
            let net: NetConfig = text.parse().unwrap();
            let json = serde_json::to_value(&net).unwrap();
            assert_eq!(serde_json::from_value::<NetConfig>(json).unwrap(), net);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, needle) in [
            ("", "empty"),
            ("id=a", "one of bridge"),
            ("bridge=br0,user", "one of bridge"),
            ("tap=a,fd=3", "one of bridge"),
            (
                "br0",
                "there is no option `br0`; the options are `id`, `bridge`",
            ),
            ("bridge", "bridge needs a value"),
            ("tap=a,mac", "mac needs a value"),
            ("user,hostfwd", "hostfwd needs a value"),
            ("tap=a,hostfwd=tcp::1-:1", "goes with user"),
            ("tap=a,mac=01:00:5e:00:00:01", "multicast"),
            ("tap=a,mac=52:54", "52:54:00:12:34:56"),
            ("tap=a,mac=00:00:00:00:00:00", "MAC"),
            ("bridge=a-name-that-is-too-long", "15"),
            ("user,hostfwd=2222", "2222"),
            ("tap=a,queues=0", "1 to 64"),
            ("user,id=../x", "begins with a letter"),
            ("user,queues=2", "go with bridge and tap"),
            ("fd=7,queues=2", "go with bridge and tap"),
            ("tap=a,vhost=maybe", "on, off or auto"),
            ("user,vhost=on", "goes with a tap"),
            ("tap=a,mtu=67", "68"),
            ("fd=x", "number"),
        ] {
            let refused = text.parse::<NetConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
