use std::io;
#[cfg(feature = "bridge")]
use std::path::PathBuf;

/// What can go wrong with a host's or a guest's network. Each message names the thing and, where
/// the user can help, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that can not be the name of an interface.
    #[error("'{name}' can not be the name of a network interface: {reason}; choose one as br0")]
    InvalidName {
        /// The text as given.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A text that can not be the hardware address of a guest's interface.
    #[error(
        "'{text}' can not be an interface's MAC address: {reason}; write one as 52:54:00:12:34:56, \
         or none to have one chosen"
    )]
    InvalidMac {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The host's kernel has no tun driver, or its device node is missing.
    #[error("this host offers no taps (/dev/net/tun: {source}); load the driver by `modprobe tun`")]
    NoTun {
        /// What opening the device answered.
        source: io::Error,
    },
    /// This user may not make or open the tap.
    #[error(
        "no right to open the tap {name}: run as root, or make it first by `sudo ip tuntap add \
         {name} mode tap user $USER`"
    )]
    TapDenied {
        /// The tap.
        name: String,
    },
    /// Another program, or this one, has the tap open.
    #[error(
        "the tap {name} is in use by another program, or by another card of this one; end that \
         use, or name another tap"
    )]
    TapBusy {
        /// The tap.
        name: String,
    },
    /// More than one queue of a tap that has one.
    #[error(
        "the tap {name} was made for one queue; ask for one, or make it anew by `ip tuntap add \
         {name} mode tap multi_queue`"
    )]
    TapSingleQueue {
        /// The tap.
        name: String,
    },
    /// An interface of that name exists and is no tap.
    #[error("{name} is no tap; name a tap, or use bridge={name} if it is a bridge")]
    NotATap {
        /// The interface.
        name: String,
    },
    /// A descriptor that was handed over can not be used.
    #[error(
        "descriptor {fd} can not be used as a tap: {reason}; hand over one per queue, opened with \
         IFF_TAP, IFF_NO_PI and IFF_VNET_HDR"
    )]
    NotATapFd {
        /// The descriptor.
        fd: i32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The host refused something about a tap.
    #[error("can not {action} the tap {name}: {source}")]
    Tap {
        /// The tap.
        name: String,
        /// What was attempted.
        action: &'static str,
        /// What the host answered.
        source: io::Error,
    },
    /// The host's kernel has no vhost-net, or its device node is missing.
    #[error(
        "this host offers no vhost-net (/dev/vhost-net: {source}); load it by `modprobe vhost_net`, \
         or leave vhost=on out"
    )]
    NoVhost {
        /// What opening the device answered.
        source: io::Error,
    },
    /// This user may not use vhost-net.
    #[error(
        "no right to use vhost-net: run as root or in the group that /dev/vhost-net belongs to, or \
         leave vhost=on out"
    )]
    VhostDenied,
    /// The host refused something about vhost-net.
    #[error("can not set up vhost-net: {source}")]
    Vhost {
        /// What the host answered.
        source: io::Error,
    },
    /// A rate limit on a card whose frames the kernel moves.
    #[error("vhost-net knows no rate limits; leave the limits out, or vhost=on")]
    VhostLimited,
    /// A text that is no forwarded port.
    #[error("'{text}' is no forwarded port: {reason}; write one as tcp::2222-:22")]
    InvalidForward {
        /// The text as given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// passt is not installed.
    #[error(
        "user networking needs the program {program}, which is not there; install the package \
         passt, or use a tap or a bridge", program = program.display()
    )]
    NoPasst {
        /// The program that was looked for.
        program: std::path::PathBuf,
    },
    /// passt could not set itself up.
    #[error("user networking does not start; passt says: {reason}")]
    Passt {
        /// What it said.
        reason: String,
    },
    /// An MTU that no driver takes.
    #[error("an MTU of {mtu} is too small for IPv4; choose one from 68 to 65535, as the bridge's")]
    InvalidMtu {
        /// Bytes.
        mtu: u16,
    },
    /// A card without a host end, or with too many.
    #[error("a network card has 1 to 256 queue pairs, not {count}; choose fewer queues")]
    NoEndpoint {
        /// How many there were.
        count: usize,
    },
    /// There is no such interface.
    #[cfg(feature = "bridge")]
    #[error(
        "there is no {what} {name} on this host; `strata net bridge list` and `ip link` show what there is"
    )]
    NoSuchLink {
        /// `"interface"` or `"bridge"`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// The name of the bridge to make is taken.
    #[cfg(feature = "bridge")]
    #[error("there is {what} {name} already; delete it, or choose another name")]
    Exists {
        /// `"a bridge"` or `"an interface"`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// An interface of that name exists and is no bridge.
    #[cfg(feature = "bridge")]
    #[error("{name} is no bridge; `strata net bridge list` shows those there are")]
    NotABridge {
        /// The interface.
        name: String,
    },
    /// The interface named as uplink is no port of the bridge.
    #[cfg(feature = "bridge")]
    #[error("{name} is no port of {bridge}; `strata net bridge list` shows its ports")]
    NotAPort {
        /// The interface.
        name: String,
        /// The bridge.
        bridge: String,
    },
    /// A bridge has several ports that may be its uplink.
    #[cfg(feature = "bridge")]
    #[error(
        "{bridge} has several ports that are no taps; say by --uplink which one gets its addresses"
    )]
    WhichUplink {
        /// The bridge.
        bridge: String,
    },
    /// The guest's MAC address is another's.
    #[cfg(feature = "bridge")]
    #[error(
        "the MAC address {mac} is taken by {owner}; choose another, or none to have one chosen"
    )]
    MacTaken {
        /// The address.
        mac: crate::MacAddr,
        /// Who has it.
        owner: String,
    },
    /// Other interfaces are ports of the bridge.
    #[cfg(feature = "bridge")]
    #[error("{name} is in use by {ports}; end those guests first, or say --force")]
    BridgeInUse {
        /// The bridge.
        name: String,
        /// Its ports, with commas between.
        ports: String,
    },
    /// The interface is a port of something already.
    #[cfg(feature = "bridge")]
    #[error(
        "{name} is a port of {master} already; use {master}, or free it by `ip link set dev {name} nomaster`"
    )]
    UplinkTaken {
        /// The interface.
        name: String,
        /// Whose port it is.
        master: String,
    },
    /// The interface can not be the uplink of a bridge.
    #[cfg(feature = "bridge")]
    #[error("{name} can not be the uplink of a bridge: {reason}; {remedy}")]
    UplinkUnfit {
        /// The interface.
        name: String,
        /// Why not.
        reason: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A route that can not be moved.
    #[cfg(feature = "bridge")]
    #[error(
        "the route {route} leads over several interfaces or a shared next hop, and can not be \
         moved from {name}; delete it for the time being"
    )]
    Immovable {
        /// The interface.
        name: String,
        /// The route.
        route: String,
    },
    /// An address or route was refused by the other interface.
    #[cfg(feature = "bridge")]
    #[error("can not move {what} to {to}: {source}; everything is as it was before")]
    Move {
        /// The address or route.
        what: String,
        /// The interface.
        to: String,
        /// What the kernel answered.
        source: io::Error,
    },
    /// The network did not answer in time.
    #[cfg(feature = "bridge")]
    #[error(
        "within {seconds} s there was {missing} on {name}, so everything was put back as it was; \
         check the network, or allow more time by --timeout"
    )]
    CutOff {
        /// The interface that has the addresses then.
        name: String,
        /// Seconds waited.
        seconds: u64,
        /// What was missing.
        missing: String,
    },
    /// A change was left half done by a process that died.
    #[cfg(feature = "bridge")]
    #[error("a change of {bridge} was left half done")]
    HalfDone {
        /// The bridge.
        bridge: String,
    },
    /// Going back failed.
    #[cfg(feature = "bridge")]
    #[error(
        "{why}; and not all could be put back: {problems}. What was before is written in \
         {journal}; `strata net bridge recover` tries again", journal = journal.display()
    )]
    RollBack {
        /// Why it had to be gone back.
        why: Box<Error>,
        /// What could not be done.
        problems: String,
        /// The journal.
        journal: PathBuf,
    },
    /// Another process changes bridges.
    #[cfg(feature = "bridge")]
    #[error("another strata is changing this host's bridges; wait for it to end")]
    BridgesLocked,
    /// The guard of a change could not be started, so the change was not begun.
    #[cfg(feature = "bridge")]
    #[error("can not start the process that would put everything back if this one died: {source}")]
    Guard {
        /// What the host answered.
        source: io::Error,
    },
    /// The host's network is configured by nothing that this crate knows.
    #[cfg(feature = "bridge")]
    #[error(
        "this host's network is configured neither by systemd-networkd nor by ifupdown, so that \
         {bridge} can not be made persistent; leave --persist out, and configure the bridge with \
         the host's own tool"
    )]
    Persist {
        /// The bridge.
        bridge: String,
    },
    /// A file of the host's configuration or of this crate's state.
    #[cfg(feature = "bridge")]
    #[error("can not {action} {path}: {source}", path = path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// Which file or directory.
        path: PathBuf,
        /// What the host answered.
        source: io::Error,
    },
    /// This user may not change interfaces.
    #[cfg(feature = "bridge")]
    #[error("no right to {action} {name}; run it as root")]
    LinkDenied {
        /// What was attempted.
        action: &'static str,
        /// On which interface, or kind of them.
        name: String,
    },
    /// The kernel refused something about an interface.
    #[cfg(feature = "bridge")]
    #[error("can not {action} {name}: {source}")]
    Link {
        /// What was attempted.
        action: &'static str,
        /// On which interface.
        name: String,
        /// What the kernel answered.
        source: io::Error,
    },
}

impl Error {
    /// Whether the host failed in the middle of things, rather than that what was asked for can not
    /// be had.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Tap { .. } | Self::Passt { .. } | Self::Vhost { .. } => true,
            #[cfg(feature = "bridge")]
            Self::CutOff { .. }
            | Self::RollBack { .. }
            | Self::Move { .. }
            | Self::Guard { .. }
            | Self::File { .. }
            | Self::Link { .. } => true,
            _ => false,
        }
    }
}

/// The error of a netlink request about `name`.
#[cfg(feature = "bridge")]
pub(crate) fn link_error(action: &'static str, name: &str, source: io::Error) -> Error {
    let name = name.to_owned();
    if source.kind() == io::ErrorKind::PermissionDenied {
        return Error::LinkDenied { action, name };
    }
    Error::Link {
        action,
        name,
        source,
    }
}
