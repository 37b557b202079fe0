//! ACPI tables of a hardware-reduced PC, in which Linux finds nothing to probe that is not there.
//!
//! [`Platform`] describes the machine, [`Platform::tables`] makes the bytes, [`Tables::write`]
//! places them. Devices of other crates add their own AML to the DSDT.

mod devices;
mod dsdt;
mod fixed;
mod platform;

use acpi_tables::{mcfg::MCFG, rsdp::Rsdp, xsdt::XSDT};
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend};

pub use acpi_tables::{Aml, aml};
pub use devices::{GenerationId, Pvpanic};
pub use platform::{Ecam, Event, IoApic, Platform, PowerRegisters, Serial};

use crate::error::{Error, Result};

const OEM_ID: [u8; 6] = *b"STRATA";
const OEM_TABLE_ID: [u8; 8] = *b"STRATAVM";
const OEM_REVISION: u32 = 1;
const TABLE_ALIGN: usize = 16;

/// All tables as they lie in guest memory, the RSDP first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tables {
    /// Guest-physical address of the RSDP and of `bytes`.
    pub rsdp: u64,
    /// The tables, with their addresses in each other.
    pub bytes: Vec<u8>,
}

impl Platform {
    /// Makes the tables for the guest-physical address `at`, within `room` bytes. Each of `devices`
    /// is put into the DSDT's `\_SB` scope.
    ///
    /// # Errors
    ///
    /// [`Error::AcpiTooLarge`], and [`Error::Platform`] for what can not be expressed.
    pub fn tables(&self, devices: &[&dyn Aml], at: u64, room: usize) -> Result<Tables> {
        self.check()?;
        let mut file = Layout {
            at,
            bytes: vec![0; Rsdp::len()],
        };
        let dsdt = file.push(&dsdt::dsdt(self, devices));
        let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
        xsdt.add_entry(file.push(&to_bytes(&fixed::fadt(self, dsdt))));
        xsdt.add_entry(file.push(&fixed::madt(self)));
        if let Some(ecam) = &self.ecam {
            let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
            mcfg.add_ecam(ecam.base, ecam.segment, ecam.first_bus, ecam.last_bus);
            xsdt.add_entry(file.push(&to_bytes(&mcfg)));
        }
        let xsdt = file.push(&to_bytes(&xsdt));
        let rsdp = to_bytes(&Rsdp::new(OEM_ID, xsdt));
        file.bytes[..rsdp.len()].copy_from_slice(&rsdp);
        let size = file.bytes.len();
        if size > room {
            return Err(Error::AcpiTooLarge { size, max: room });
        }
        Ok(Tables {
            rsdp: at,
            bytes: file.bytes,
        })
    }
}

impl Tables {
    /// Writes the tables into guest memory.
    ///
    /// # Errors
    ///
    /// [`Error::GuestMemory`].
    pub fn write<M: GuestMemoryBackend>(&self, mem: &M) -> Result<()> {
        mem.write_slice(&self.bytes, GuestAddress(self.rsdp))
            .map_err(|source| Error::GuestMemory {
                what: "the ACPI tables",
                addr: self.rsdp,
                source,
            })
    }
}

/// Tables one after another, whose addresses are known as they are added.
struct Layout {
    at: u64,
    bytes: Vec<u8>,
}

impl Layout {
    /// Adds a table and returns its guest-physical address.
    fn push(&mut self, table: &[u8]) -> u64 {
        let offset = self.bytes.len().next_multiple_of(TABLE_ALIGN);
        self.bytes.resize(offset, 0);
        self.bytes.extend_from_slice(table);
        self.at + offset as u64
    }
}

/// A table with the common header (ACPI 6.5, 5.2.6) and its checksum.
fn table(signature: &[u8; 4], revision: u8, body: &[u8]) -> Vec<u8> {
    const HEADER: usize = 36;
    const CHECKSUM: usize = 9;
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend_from_slice(signature);
    bytes.extend_from_slice(&((HEADER + body.len()) as u32).to_le_bytes());
    bytes.extend_from_slice(&[revision, 0]);
    bytes.extend_from_slice(&OEM_ID);
    bytes.extend_from_slice(&OEM_TABLE_ID);
    bytes.extend_from_slice(&OEM_REVISION.to_le_bytes());
    bytes.extend_from_slice(b"STRA");
    bytes.extend_from_slice(&1_u32.to_le_bytes());
    bytes.extend_from_slice(body);
    let sum = bytes.iter().fold(0_u8, |sum, &b| sum.wrapping_add(b));
    bytes[CHECKSUM] = sum.wrapping_neg();
    bytes
}

fn to_bytes(aml: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    aml.to_aml_bytes(&mut bytes);
    bytes
}
