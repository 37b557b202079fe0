//! Feature bits of the network card (virtio 1.2 §5.1.3).

use crate::Offloads;

/// The device takes frames whose checksum is not computed.
pub const CSUM: u64 = 1 << 0;
/// So does the driver.
pub const GUEST_CSUM: u64 = 1 << 1;
/// The driver may change its own offloads at any time.
pub const CTRL_GUEST_OFFLOADS: u64 = 1 << 2;
/// The device says its MTU.
pub const MTU: u64 = 1 << 3;
/// The device has a MAC address.
pub const MAC: u64 = 1 << 5;
/// The driver takes large TCP segments over IPv4.
pub const GUEST_TSO4: u64 = 1 << 7;
/// The driver takes large TCP segments over IPv6.
pub const GUEST_TSO6: u64 = 1 << 8;
/// The driver takes large TCP segments with ECN.
pub const GUEST_ECN: u64 = 1 << 9;
/// The device takes large TCP segments over IPv4.
pub const HOST_TSO4: u64 = 1 << 11;
/// The device takes large TCP segments over IPv6.
pub const HOST_TSO6: u64 = 1 << 12;
/// The device takes large TCP segments with ECN.
pub const HOST_ECN: u64 = 1 << 13;
/// A received frame may lie in several buffers.
pub const MRG_RXBUF: u64 = 1 << 15;
/// The configuration has the link's status.
pub const STATUS: u64 = 1 << 16;
/// There is a control queue.
pub const CTRL_VQ: u64 = 1 << 17;
/// The driver may choose which frames it gets by their kind.
pub const CTRL_RX: u64 = 1 << 18;
/// The device can ask the driver to announce itself.
pub const GUEST_ANNOUNCE: u64 = 1 << 21;
/// There may be several queue pairs.
pub const MQ: u64 = 1 << 22;
/// The driver may set the MAC address.
pub const CTRL_MAC_ADDR: u64 = 1 << 23;
/// The driver takes large UDP segments over IPv4.
pub const GUEST_USO4: u64 = 1 << 54;
/// The driver takes large UDP segments over IPv6.
pub const GUEST_USO6: u64 = 1 << 55;
/// The device takes large UDP segments.
pub const HOST_USO: u64 = 1 << 56;

/// Which offload of the host's each of the driver's bits stands for.
const GUEST: [(u64, Offloads); 6] = [
    (GUEST_CSUM, Offloads::CSUM),
    (GUEST_TSO4, Offloads::TSO4),
    (GUEST_TSO6, Offloads::TSO6),
    (GUEST_ECN, Offloads::TSO_ECN),
    (GUEST_USO4, Offloads::USO4),
    (GUEST_USO6, Offloads::USO6),
];

/// And each of the device's.
const HOST: [(u64, Offloads); 5] = [
    (CSUM, Offloads::CSUM),
    (HOST_TSO4, Offloads::TSO4),
    (HOST_TSO6, Offloads::TSO6),
    (HOST_ECN, Offloads::TSO_ECN),
    (HOST_USO, Offloads::USO),
];

/// The bits for what the host knows.
pub(super) fn of_offloads(known: Offloads) -> u64 {
    let bits = GUEST.into_iter().chain(HOST);
    let offered = bits.filter(|(_, offload)| known.contains(*offload));
    offered.fold(0, |all, (bit, _)| all | bit)
}

/// The offloads that the driver takes.
pub(super) fn guest_offloads(features: u64) -> Offloads {
    let taken = GUEST.into_iter().filter(|(bit, _)| features & bit != 0);
    let offloads = taken.fold(Offloads::NONE, |all, (_, offload)| all | offload);
    // Segments with ECN are not segments of their own: the host refuses them without TSO. And none
    // goes without checksum offload (virtio 1.2 §5.1.3.1).
    let tso = offloads.contains(Offloads::TSO4) || offloads.contains(Offloads::TSO6);
    if !offloads.contains(Offloads::CSUM) {
        Offloads::NONE
    } else if !tso {
        offloads.without(Offloads::TSO_ECN)
    } else {
        offloads
    }
}

/// Whether the driver takes frames larger than its MTU.
pub(super) fn takes_large_frames(features: u64) -> bool {
    features & (GUEST_TSO4 | GUEST_TSO6 | GUEST_USO4 | GUEST_USO6) != 0
}

/// The bits that [`CTRL_GUEST_OFFLOADS`] can switch (virtio 1.2 §5.1.6.5.6.1).
pub(super) const SWITCHABLE: u64 =
    GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | GUEST_USO4 | GUEST_USO6;
