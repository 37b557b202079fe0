//! Slot 0: the bridge to the processors, which has nothing to configure.

use crate::bar::{Bar, BarRange};
use crate::config::{ConfigSpace, Identity};
use crate::function::Function;

/// A host bridge, as Linux expects one at 00:00.0 (PCI Local Bus 3.0, 3.2.2.3.2 and D.1).
#[derive(Debug)]
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    /// Red Hat's generic PCI Express host bridge: no driver looks for more.
    pub fn new() -> Self {
        Self(ConfigSpace::new(&Identity {
            vendor: 0x1b36,
            device: 0x0008,
            class: 0x06_00_00,
            ..Identity::default()
        }))
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl Function for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write_config(&self, _offset: u16, _data: &[u8]) {}

    fn bars(&self, _each: &mut dyn FnMut(u8, Bar)) {}

    fn ranges(&self, _each: &mut dyn FnMut(BarRange)) {}

    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) {}

    fn reset(&self) {}
}
