//! The configuration space of a function: 256 bytes (PCI Local Bus 3.0, 6.1).

use crate::bar::{Bar, BarKind, BarRange};
use crate::capability::Capability;
use crate::error::Error;

const SIZE: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BARS: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
/// Where the header ends and capabilities begin.
const HEADER: usize = 0x40;

/// Command register: memory decode, bus master, parity response, SERR and INTx disable.
const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_WRITABLE: u16 = COMMAND_MEMORY | 1 << 2 | 1 << 6 | 1 << 8 | 1 << 10;
/// Status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;

/// Who a function is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Base class, sub-class and programming interface, the base class in bits 23 to 16.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// What a saved machine must say about a configuration space: all of its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct ConfigState {
    /// The 256 bytes.
    pub bytes: Vec<u8>,
}

/// The configuration space of one function: bytes, and which of their bits a guest may write.
///
/// That is all there is to most registers, BARs included: sizing a BAR is writing ones to those of
/// its bits that can be written.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: [u8; SIZE],
    /// The bytes as they were declared.
    declared: [u8; SIZE],
    writable: [u8; SIZE],
    bars: [Option<Bar>; 6],
    /// Where the next capability goes, and where its offset is to be written.
    free: usize,
    link: usize,
}

impl ConfigSpace {
    /// A type 0 header with nothing but its identity. Memory is not decoded, BARs are at 0.
    pub fn new(identity: &Identity) -> Self {
        let mut config = Self {
            bytes: [0; SIZE],
            declared: [0; SIZE],
            writable: [0; SIZE],
            bars: [None; 6],
            free: HEADER,
            link: CAPABILITIES,
        };
        config.put(0x00, &identity.vendor.to_le_bytes());
        config.put(0x02, &identity.device.to_le_bytes());
        config.put(0x08, &(identity.class << 8).to_le_bytes());
        config.put(0x08, &[identity.revision]);
        config.put(0x2c, &identity.subsystem_vendor.to_le_bytes());
        config.put(0x2e, &identity.subsystem.to_le_bytes());
        config.writable[COMMAND..STATUS].copy_from_slice(&COMMAND_WRITABLE.to_le_bytes());
        config.writable[INTERRUPT_LINE] = 0xff;
        config
    }

    /// Adds a BAR of `size` bytes at register `bar`: 0 to 5, and for 64 bits also the next.
    ///
    /// # Errors
    /// [`Error::Bar`] unless `size` is a power of two of at least 16 (and fits into 32 bits), and the
    /// registers exist and are free.
    pub fn add_bar(&mut self, bar: u8, kind: BarKind, size: u64) -> Result<(), Error> {
        let index = usize::from(bar);
        let registers = match kind {
            BarKind::Memory32 => 1,
            BarKind::Memory64 => 2,
        };
        let follows_64 = index > 0
            && matches!(
                self.bars.get(index - 1),
                Some(Some(Bar {
                    kind: BarKind::Memory64,
                    ..
                }))
            );
        let free = self
            .bars
            .get(index..index + registers)
            .is_some_and(|bars| bars.iter().all(Option::is_none));
        let fits = kind == BarKind::Memory64 || size <= 1 << 31;
        if !size.is_power_of_two() || size < 16 || !fits || !free || follows_64 {
            return Err(Error::Bar { bar, size });
        }
        self.bars[index] = Some(Bar { kind, size });
        let at = BARS + index * 4;
        let mask = (!(size - 1)).to_le_bytes();
        self.writable[at..at + registers * 4].copy_from_slice(&mask[..registers * 4]);
        self.put(at, &kind.flags().to_le_bytes());
        Ok(())
    }

    /// Adds a capability behind those there are, and returns its offset.
    ///
    /// # Errors
    /// [`Error::CapabilityRoom`].
    pub fn add_capability(&mut self, capability: &Capability) -> Result<u8, Error> {
        let len = capability.body.len() + 2;
        let at = self.free;
        let offset = u8::try_from(at).ok().filter(|_| at + len <= SIZE);
        let offset = offset.ok_or(Error::CapabilityRoom { len })?;
        self.put(self.link, &[offset]);
        self.put(at, &[capability.id, 0]);
        self.put(at + 2, &capability.body);
        self.writable[at + 2..at + len].copy_from_slice(&capability.writable);
        self.link = at + 1;
        // Capabilities are aligned to double words.
        self.free = (at + len).next_multiple_of(4);
        let status = self.u16_at(STATUS) | STATUS_CAPABILITIES;
        self.put(STATUS, &status.to_le_bytes());
        Ok(offset)
    }

    /// Reads at `offset`, in any width. What is past the end reads as zeroes: there are no extended
    /// capabilities (PCI Express 4.0, 7.6.1).
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        data.fill(0);
        let from = self.bytes.get(offset.into()..).unwrap_or(&[]);
        for (to, byte) in data.iter_mut().zip(from) {
            *to = *byte;
        }
    }

    /// Writes at `offset`, in any width, those bits that can be written.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        let start = usize::from(offset).min(SIZE);
        let masks = &self.writable[start..];
        let bytes = &mut self.bytes[start..];
        for ((to, mask), byte) in bytes.iter_mut().zip(masks).zip(data) {
            *to = *to & !mask | byte & mask;
        }
    }

    /// Takes back what was written, as a reset of the function does.
    pub fn reset(&mut self) {
        self.bytes = self.declared;
    }

    /// Sets bytes whatever a guest may write: registers with a meaning of their own. What is past
    /// the end is dropped.
    pub fn set(&mut self, offset: u16, data: &[u8]) {
        let to = self.bytes.iter_mut().skip(offset.into());
        for (to, byte) in to.zip(data) {
            *to = *byte;
        }
    }

    /// A 16-bit register: that of MSI-X message control, for example. 0 past the end.
    pub fn u16_at(&self, offset: usize) -> u16 {
        let mut bytes = [0; 2];
        if let Some(from) = self.bytes.get(offset..offset + 2) {
            bytes.copy_from_slice(from);
        }
        u16::from_le_bytes(bytes)
    }

    /// All BARs, decoded or not, each with its index: of its first register, 0 to 5.
    pub fn bars(&self) -> impl Iterator<Item = (u8, Bar)> {
        let bars = self.bars.iter().zip(0_u8..);
        bars.filter_map(|(bar, index)| Some((index, (*bar)?)))
    }

    /// The BARs whose memory is decoded: that is enabled, and does not pass the end of memory.
    pub fn ranges(&self) -> impl Iterator<Item = BarRange> {
        let enabled = self.u16_at(COMMAND) & COMMAND_MEMORY != 0;
        let bars = self.bars().filter(move |_| enabled);
        bars.filter_map(|(index, Bar { kind, size })| {
            let base = self.address(index.into(), kind) & !(size - 1);
            base.checked_add(size)?;
            Some(BarRange {
                bar: index,
                base,
                size,
            })
        })
    }

    /// The bytes, to save them.
    pub fn state(&self) -> ConfigState {
        ConfigState {
            bytes: self.bytes.to_vec(),
        }
    }

    /// Takes from `state` what a guest may write, into a space that was made as the saved one was.
    ///
    /// # Errors
    /// [`Error::State`] if any other bit differs: the state is of another function.
    pub fn set_state(&mut self, state: &ConfigState) -> Result<(), Error> {
        let bytes: [u8; SIZE] = state
            .bytes
            .as_slice()
            .try_into()
            .map_err(|_| Error::State("its length is not 256"))?;
        let mut pairs = self.bytes.iter().zip(&bytes).zip(&self.writable);
        if pairs.any(|((ours, theirs), writable)| (ours ^ theirs) & !writable != 0) {
            return Err(Error::State("a read-only register differs"));
        }
        self.bytes = bytes;
        Ok(())
    }

    fn address(&self, index: usize, kind: BarKind) -> u64 {
        let at = BARS + index * 4;
        let mut bytes = [0; 8];
        let len = match kind {
            BarKind::Memory32 => 4,
            BarKind::Memory64 => 8,
        };
        bytes[..len].copy_from_slice(&self.bytes[at..at + len]);
        u64::from_le_bytes(bytes)
    }

    /// Declares bytes.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.declared[at..at + bytes.len()].copy_from_slice(bytes);
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
}
