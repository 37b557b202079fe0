//! Network cards: `bridge=BR`, `tap=NAME`, `fd=N` or `user`, and what goes with each.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use strata_memory::MemorySize;
use strata_net::{Forward, InterfaceName, MacAddr, RateLimit};

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

/// The name of a card's tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TapName {
    /// The first free one of the kernel's pattern, `tap%d`.
    Free,
    /// This one.
    Named(InterfaceName),
}

impl TapName {
    /// The kernel's pattern: no interface can have this name.
    const FREE: &'static str = "tap%d";

    /// The name, where it was said.
    pub fn named(&self) -> Option<&InterfaceName> {
        match self {
            Self::Free => None,
            Self::Named(name) => Some(name),
        }
    }
}

impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.named().map_or(Self::FREE, InterfaceName::as_str))
    }
}

impl FromText for TapName {
    const EXPECTED: &'static str = InterfaceName::EXPECTED;

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            Self::FREE => Ok(Self::Free),
            _ => InterfaceName::from_text(text).map(Self::Named),
        }
    }
}

/// A card's MTU where neither the user nor a bridge says another: Ethernet's.
pub const DEFAULT_MTU: u16 = 1500;

/// A network card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetConfig {
    /// Its name in messages and commands; net0 and so on where none is given.
    #[serde(default)]
    pub id: Option<String>,
    /// The bridge that its tap is put on.
    #[serde(
        default,
        deserialize_with = "options::some",
        serialize_with = "options::print"
    )]
    pub bridge: Option<InterfaceName>,
    /// The tap's name; a free one where a bridge is named and none is given.
    #[serde(
        default,
        deserialize_with = "options::some",
        serialize_with = "options::print"
    )]
    pub tap: Option<TapName>,
    /// The descriptor of an open tap that strata has inherited.
    #[serde(default, deserialize_with = "options::some")]
    pub fd: Option<i32>,
    /// Whether passt connects it, without any privilege.
    #[serde(default, deserialize_with = "options::value")]
    pub user: bool,
    /// With `user`, ports of the host that lead to the guest: `tcp:[ADDR]:PORT-[ADDR]:PORT`.
    #[serde(default)]
    pub hostfwd: Vec<String>,
    /// Its address; none for a random one, which is said as `random`.
    #[serde(
        default,
        deserialize_with = "mac_or_random",
        serialize_with = "print_mac"
    )]
    pub mac: Option<MacAddr>,
    /// The largest frame's payload in bytes, told to the guest; none for that of the bridge, or
    /// [`DEFAULT_MTU`], which is said as `auto`.
    #[serde(
        default,
        deserialize_with = "mtu_or_auto",
        serialize_with = "print_mtu"
    )]
    pub mtu: Option<u16>,
    /// How many pairs of queues, each with a thread of its own.
    #[serde(default = "options::one", deserialize_with = "options::value")]
    pub queues: u16,
    /// At most so many bytes a second, in each direction.
    #[serde(default, deserialize_with = "options::some")]
    pub bps: Option<MemorySize>,
    /// At most so many frames a second, in each direction.
    #[serde(default, deserialize_with = "options::some")]
    pub pps: Option<u64>,
    /// Whether the host's kernel moves its frames by itself.
    #[serde(default, deserialize_with = "options::value")]
    pub vhost: Vhost,
}

const RANDOM: &str = "random";
const AUTO: &str = "auto";

fn mac_or_random<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MacAddr>, D::Error> {
    unless(RANDOM, deserializer)
}

fn mtu_or_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u16>, D::Error> {
    unless(AUTO, deserializer)
}

/// A value, or none for the word that leaves it to strata.
fn unless<'de, D, T>(word: &str, deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromText,
{
    let text = options::some::<D, String>(deserializer)?;
    let text = text.filter(|text| text != word);
    let value = text.map(|text| T::from_text(&text)).transpose();
    value.map_err(D::Error::custom)
}

fn print_mac<S: Serializer>(mac: &Option<MacAddr>, serializer: S) -> Result<S::Ok, S::Error> {
    match mac {
        Some(mac) => serializer.collect_str(mac),
        None => serializer.serialize_str(RANDOM),
    }
}

fn print_mtu<S: Serializer>(mtu: &Option<u16>, serializer: S) -> Result<S::Ok, S::Error> {
    match mtu {
        Some(mtu) => serializer.serialize_u16(*mtu),
        None => serializer.serialize_str(AUTO),
    }
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
        options::check_limit("bps", self.bps.map(MemorySize::bytes))?;
        options::check_limit("pps", self.pps)?;
        if self.vhost == Vhost::On && self.is_limited() {
            return Err("vhost knows no limits; leave out vhost=on, or bps and pps".to_owned());
        }
        if !(1..=64).contains(&self.queues) {
            return Err(format!("1 to 64 queues, not {}", self.queues));
        }
        if self.queues > 1 && (self.user || self.fd.is_some()) {
            return Err("several queues go with bridge and tap; leave queues out".to_owned());
        }
        self.forwards()?;
        if self.mtu.is_some_and(|mtu| mtu < 68) {
            return Err("the mtu is at least 68 (IPv4's smallest)".to_owned());
        }
        Ok(())
    }

    fn fill(&mut self) {
        if self.bridge.is_some() {
            self.tap.get_or_insert(TapName::Free);
        } else {
            self.mtu.get_or_insert(DEFAULT_MTU);
        }
        // What vhost can not serve, it does not.
        if self.vhost == Vhost::Auto && (self.user || self.is_limited()) {
            self.vhost = Vhost::Off;
        }
    }
}

options!(NetConfig);

impl NetConfig {
    /// What may pass, in each direction.
    pub fn rate_limit(&self) -> RateLimit {
        RateLimit {
            bytes: self.bps.map(MemorySize::bytes),
            frames: self.pps,
        }
    }

    fn is_limited(&self) -> bool {
        self.rate_limit() != RateLimit::default()
    }

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
            "tap=tap0,bps=10M,pps=5000",
            "tap=tap%d,mac=random,mtu=auto",
        ] {
            let net: NetConfig = text.parse().unwrap();
            let json = serde_json::to_value(&net).unwrap();
            assert_eq!(serde_json::from_value::<NetConfig>(json).unwrap(), net);
        }
    }

    #[test]
    fn mistakes_are_refused() {
        for (text, needle) in [
            ("", "one of bridge"),
            ("user,", "empty"),
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
            ("tap=a,mtu=large", "number"),
            ("tap=a%d", "a%d"),
            ("tap=a,bps=0", "leave it out"),
            ("tap=a,pps=0", "leave it out"),
            ("tap=a,bps=fast", "number"),
            ("tap=a,bps=10MB", "powers of 1024"),
            ("tap=a,pps=1K", "number"),
            ("tap=a,vhost=on,pps=1", "vhost knows no limits"),
            ("fd=x", "number"),
        ] {
            let refused = text.parse::<NetConfig>().unwrap_err();
            assert!(refused.contains(needle), "{text}: {refused}");
        }
    }

    #[test]
    fn what_is_not_said_is_filled_in() {
        let print = |text: &str| serde_json::to_value(text.parse::<NetConfig>().unwrap()).unwrap();
        let bridged = print("bridge=br0");
        assert_eq!(
            bridged,
            serde_json::json!({
                "id": null, "bridge": "br0", "tap": "tap%d", "fd": null, "user": false,
                "hostfwd": [], "mac": "random", "mtu": "auto", "queues": 1,
                "bps": null, "pps": null, "vhost": "off",
            })
        );
        assert_eq!(print("user")["mtu"], 1500);
        assert_eq!(print("user")["tap"], serde_json::Value::Null);
        // What can not be served by vhost is not.
        assert_eq!(print("user,vhost=auto")["vhost"], "off");
        assert_eq!(print("tap=a,vhost=auto,pps=1")["vhost"], "off");
        assert_eq!(print("tap=a,vhost=auto")["vhost"], "auto");
    }

    #[test]
    fn limits_are_of_each_direction() {
        let net: NetConfig = "tap=a,bps=1M,pps=500".parse().unwrap();
        let limit = RateLimit {
            bytes: Some(1 << 20),
            frames: Some(500),
        };
        assert_eq!(net.rate_limit(), limit);
    }
}
