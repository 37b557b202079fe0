//! What goes through the queues (virtio 1.2, 5.10.6).

/// Operations (virtio 1.2, 5.10.6: enum virtio_vsock_op).
pub mod op {
    /// Asks for a connection.
    pub const REQUEST: u16 = 1;
    /// Takes it.
    pub const RESPONSE: u16 = 2;
    /// There is no such connection, or no longer.
    pub const RST: u16 = 3;
    /// The sender will not send, or not receive, any more.
    pub const SHUTDOWN: u16 = 4;
    /// Bytes of the stream.
    pub const RW: u16 = 5;
    /// Says how much the sender has room for.
    pub const CREDIT_UPDATE: u16 = 6;
    /// Asks the receiver to say so.
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of [`op::SHUTDOWN`] (virtio 1.2, 5.10.6.6.1).
pub mod shutdown {
    /// The sender receives no more.
    pub const RECEIVE: u32 = 1;
    /// The sender sends no more.
    pub const SEND: u32 = 2;
    /// Neither.
    pub const BOTH: u32 = RECEIVE | SEND;
}

/// VIRTIO_VSOCK_TYPE_STREAM.
pub(crate) const STREAM: u16 = 1;

/// What a packet begins with: struct virtio_vsock_hdr.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The sender's context id.
    pub src_cid: u64,
    /// The receiver's context id.
    pub dst_cid: u64,
    /// The sender's port.
    pub src_port: u32,
    /// The receiver's port.
    pub dst_port: u32,
    /// Bytes that follow the header.
    pub len: u32,
    /// The kind of socket: 1, a stream.
    pub kind: u16,
    /// The operation: see [`op`].
    pub op: u16,
    /// Flags of the operation.
    pub flags: u32,
    /// Bytes of the sender's receive buffer.
    pub buf_alloc: u32,
    /// Bytes that the sender's side has taken out of it in all, modulo 2³².
    pub fwd_cnt: u32,
}

impl Header {
    /// Bytes of a header.
    pub const SIZE: usize = 44;

    /// The header in these bytes. Any bytes are one.
    pub fn from_bytes(bytes: &[u8; Self::SIZE]) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    /// The bytes of this header.
    pub fn to_bytes(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        let mut rest = &mut bytes[..];
        put(&mut rest, &self.src_cid.to_le_bytes());
        put(&mut rest, &self.dst_cid.to_le_bytes());
        put(&mut rest, &self.src_port.to_le_bytes());
        put(&mut rest, &self.dst_port.to_le_bytes());
        put(&mut rest, &self.len.to_le_bytes());
        put(&mut rest, &self.kind.to_le_bytes());
        put(&mut rest, &self.op.to_le_bytes());
        put(&mut rest, &self.flags.to_le_bytes());
        put(&mut rest, &self.buf_alloc.to_le_bytes());
        put(&mut rest, &self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The packet that says that there is no connection for this one.
    pub(crate) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: STREAM,
            op: op::RST,
            ..Self::default()
        }
    }
}

/// The next `N` bytes; zeroes where there are none.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    match rest.split_first_chunk() {
        Some((first, others)) => {
            *rest = others;
            *first
        }
        None => [0; N],
    }
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    if let Some((first, others)) = std::mem::take(rest).split_at_mut_checked(bytes.len()) {
        first.copy_from_slice(bytes);
        *rest = others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_place() {
        let bytes: [u8; Header::SIZE] = std::array::from_fn(|at| at as u8);
        let header = Header::from_bytes(&bytes);
        assert_eq!(header.src_cid, 0x0706_0504_0302_0100);
        assert_eq!(header.len, 0x1b1a_1918);
        assert_eq!((header.kind, header.op), (0x1d1c, 0x1f1e));
        assert_eq!(header.fwd_cnt, 0x2b2a_2928);
        assert_eq!(header.to_bytes(), bytes);
    }
}
