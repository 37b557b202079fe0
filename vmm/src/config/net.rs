//! Network cards: `bridge=BR`, `tap=NAME`, `fd=N` or `user`, and what goes with each.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::options::{self, FromText, Options, options};

/// An Ethernet address of a card: unicast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("\"{text}\" is no MAC address; one looks like 52:54:00:12:34:56");
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(fail)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| fail())?;
        }
        if parts.next().is_some() {
            return Err(fail());
        }
        if mac[0] & 1 != 0 {
            return Err(format!(
                "{text} is a multicast address, which no card can have: make its first byte even"
            ));
        }
        if mac == [0; 6] {
            return Err(format!("{text} is no card's address"));
        }
        Ok(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl FromText for Mac {
    const EXPECTED: &'static str = "a MAC address";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }
}

/// A network card.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct NetConfig {
    /// Its name in messages and commands; net0 and so on where none is given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The bridge that a tap of its own is put on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The tap's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The descriptor of an open tap that strata has inherited.
    #[serde(
        deserialize_with = "options::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub fd: Option<i32>,
    /// Whether passt connects it, without any privilege.
    #[serde(deserialize_with = "options::value")]
    pub user: bool,
    /// With `user`, a port of the host that leads to the guest: `tcp:[ADDR]:PORT-[ADDR]:PORT`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostfwd: Option<String>,
    /// Its address; one made from the machine's and its own name where none is given.
    #[serde(
        deserialize_with = "options::some",
        skip_serializing_if = "Option::is_none"
    )]
    pub mac: Option<Mac>,
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
}

impl Options for NetConfig {
    const HEADS: &'static [&'static str] = &[];
    const WHAT: &'static str = "net";

    fn check(&self) -> Result<(), String> {
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
        if self.hostfwd.is_some() && !self.user {
            return Err(
                "hostfwd goes with user; a bridge's guests have ports of their own".to_owned(),
            );
        }
        if self
            .queues
            .is_some_and(|queues| !(1..=64).contains(&queues))
        {
            return Err("1 to 64 queues".to_owned());
        }
        if self.mtu.is_some_and(|mtu| mtu < 68) {
            return Err("the mtu is at least 68 (IPv4's smallest)".to_owned());
        }
        Ok(())
    }
}

options!(NetConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_has_its_key() {
        for text in [
            "bridge=br0",
            "bridge=br0,tap=web,mac=52:54:00:12:34:56,mtu=9000,queues=2,id=lan",
            "tap=tap0",
            "fd=7",
            "user",
            "user,hostfwd=tcp::2222-:22",
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
            ("br0", "unknown field `br0`"),
            ("tap=a,hostfwd=tcp::1-:1", "goes with user"),
            ("tap=a,mac=01:00:5e:00:00:01", "multicast"),
            ("tap=a,mac=52:54", "no MAC address"),
            ("tap=a,mac=00:00:00:00:00:00", "no card's"),
            ("tap=a,queues=0", "1 to 64"),
            ("tap=a,mtu=67", "68"),
            ("fd=x", "number"),
        ] {
            let refused = text.parse::<NetConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }
}
