//! Feature bits that are not a device type's own (virtio 1.2, 6).

/// The driver may use descriptors that refer to a table of descriptors.
pub const RING_INDIRECT_DESC: u64 = 1 << 28;
/// The sides say at which ring index they want to be notified next.
pub const RING_EVENT_IDX: u64 = 1 << 29;
/// The device is a virtio 1.x device. Without it there is no negotiation here.
pub const VERSION_1: u64 = 1 << 32;
/// The device's accesses to memory are translated. Not offered.
pub const ACCESS_PLATFORM: u64 = 1 << 33;

/// What the transport offers for every device.
pub const TRANSPORT: u64 = VERSION_1 | RING_EVENT_IDX | RING_INDIRECT_DESC;

/// What a device may not offer by itself: bits 24 to 49 (virtio 1.2, 2.2) but those that the device
/// types use there.
pub(crate) const RESERVED: u64 = ((1 << 42) - 1) & !((1 << 28) - 1);
