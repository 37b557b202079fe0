//! The mock driver.

use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use strata_memory::{GuestMemory, GuestRam};
use strata_pci::test_utils::RecordingSink;
use strata_pci::{Bus, BusLayout, Capability, MsiSink};
use vm_memory::{ByteValued, Bytes, GuestAddress};

use super::binder::MockBinder;
use super::ring::{Buffer, MockQueue};
use crate::device::Device;
use crate::features;
use crate::sys::poll_readable;
use crate::transport::VirtioPci;
use crate::transport::common as reg;

/// Guest memory of a mock machine.
const RAM: u64 = 16 << 20;
/// Where queues begin, and buffers.
const QUEUES: u64 = 0x1000;
const BUFFERS: u64 = 4 << 20;
/// How long a test waits before it fails.
const PATIENCE: Duration = Duration::from_secs(10);
const SLOT: u64 = 1;

/// A chain that the device has given back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    /// The chain's head, as [`MockDriver::add`] returned it.
    pub head: u16,
    /// Bytes that the device says it has written.
    pub len: u32,
    /// The bytes of all writable buffers, those that the device has not written as well.
    pub written: Vec<u8>,
}

/// A driver, the guest memory that it owns, and a machine with nothing but its device.
#[derive(Debug)]
pub struct MockDriver {
    device: Arc<VirtioPci>,
    bus: Bus,
    binder: Arc<MockBinder>,
    sink: Arc<RecordingSink>,
    ram: Arc<GuestRam>,
    /// Guest-physical addresses of the common, notify, ISR and device structures.
    structures: [u64; 4],
    queues: Vec<Option<MockQueue>>,
    /// Where the next buffer goes.
    next_buffer: u64,
    accepted: u64,
}

impl MockDriver {
    /// A machine of 16 MiB with `device`, which the driver has found and not yet touched.
    pub fn new(device: Box<dyn Device>) -> Self {
        let ram = strata_memory::test_utils::ram(RAM).unwrap();
        Self::with_ram(device, Arc::new(ram))
    }

    /// As [`new`](Self::new), with guest RAM that the device knows as well: at least 16 MiB from
    /// address 0.
    pub fn with_ram(device: Box<dyn Device>, ram: Arc<GuestRam>) -> Self {
        let vectors = u16::try_from(device.queue_sizes().len() + 1).unwrap();
        let sink = Arc::new(RecordingSink::new(vectors));
        let binder = Arc::new(MockBinder::default());
        let layout = BusLayout {
            ecam: 0xe000_0000,
            mem32: 0xd000_0000..0xd100_0000,
            mem64: 1 << 38..(1 << 38) + (1 << 30),
        };
        let bus = Bus::new(layout).unwrap();
        let device = plug(device, &bus, ram.memory(), &sink, &binder);
        let mut driver = Self {
            device,
            bus,
            binder,
            sink,
            ram,
            structures: [0; 4],
            queues: Vec::new(),
            next_buffer: BUFFERS,
            accepted: 0,
        };
        driver.probe();
        driver
    }

    /// Takes the device out and puts another into its place, as a restored machine has it: the guest
    /// and all its memory stay as they are.
    pub fn replace_device(&mut self, device: Box<dyn Device>) {
        self.bus.remove(SLOT as u8);
        self.device.stop();
        let memory = self.ram.memory();
        self.device = plug(device, &self.bus, memory, &self.sink, &self.binder);
    }

    /// The device's transport.
    pub fn device(&self) -> &Arc<VirtioPci> {
        &self.device
    }

    /// The bus that the device is on, in slot 1.
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    /// The ioeventfds.
    pub fn binder(&self) -> &MockBinder {
        &self.binder
    }

    /// The interrupts. Vector 0 is for configuration changes, vector n + 1 for queue n.
    pub fn sink(&self) -> &RecordingSink {
        &self.sink
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        self.ram.memory()
    }

    /// The guest's memory, with its dirty log.
    pub fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// A queue that was set up.
    pub fn queue(&mut self, index: u16) -> &mut MockQueue {
        self.queues[usize::from(index)].as_mut().expect("a queue")
    }

    /// Does all that a driver does up to DRIVER_OK: accepts those of `features` (and VERSION_1) that
    /// are offered, and sets up all queues at their largest sizes.
    pub fn start(&mut self, features: u64) {
        self.negotiate(features);
        for queue in 0..self.num_queues() {
            self.set_up_queue(queue, None);
        }
        self.driver_ok();
    }

    /// Resets the device and accepts those of `features` (and VERSION_1) that are offered.
    pub fn negotiate(&mut self, features: u64) {
        self.reset();
        self.write_status(reg::ACKNOWLEDGE);
        self.write_status(reg::ACKNOWLEDGE | reg::DRIVER);
        self.accept(self.offered() & (features | features::VERSION_1));
        assert!(self.features_ok(), "the device refuses its own features");
        self.write_config_space(self.msix_control(), &0x8000_u16.to_le_bytes());
        self.write_common(reg::CONFIG_VECTOR, &0_u16.to_le_bytes());
    }

    /// Writes the driver's features, whether they are offered or not.
    pub fn accept(&mut self, features: u64) {
        self.accepted = features;
        for select in 0..2_u32 {
            self.write_common(reg::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
            let half = (features >> (32 * select)) as u32;
            self.write_common(reg::DRIVER_FEATURE, &half.to_le_bytes());
        }
    }

    /// Sets FEATURES_OK and says whether the device agrees.
    pub fn features_ok(&self) -> bool {
        self.write_status(self.status() | reg::FEATURES_OK);
        self.status() & reg::FEATURES_OK != 0
    }

    /// Sets up and enables a queue of `size` entries, or of its largest size.
    pub fn set_up_queue(&mut self, index: u16, size: Option<u16>) {
        let at = self.queue_address(index);
        self.write_common(reg::QUEUE_SELECT, &index.to_le_bytes());
        let size = size.unwrap_or_else(|| self.read_common::<u16>(reg::QUEUE_SIZE));
        let queue = MockQueue::new(self.memory(), at, size);
        self.write_queue(
            index,
            size,
            [queue.desc_table, queue.avail_ring, queue.used_ring],
        );
        if self.queues.len() <= usize::from(index) {
            self.queues.resize_with(usize::from(index) + 1, || None);
        }
        self.queues[usize::from(index)] = Some(queue);
    }

    /// Writes a queue's registers, whatever they are, and enables it.
    pub fn write_queue(&self, index: u16, size: u16, [desc, avail, used]: [u64; 3]) {
        self.write_common(reg::QUEUE_SELECT, &index.to_le_bytes());
        self.write_common(reg::QUEUE_SIZE, &size.to_le_bytes());
        self.write_common(reg::QUEUE_VECTOR, &(index + 1).to_le_bytes());
        for (register, value) in [
            (reg::QUEUE_DESC, desc),
            (reg::QUEUE_DRIVER, avail),
            (reg::QUEUE_DEVICE, used),
        ] {
            self.write_common(register, &(value as u32).to_le_bytes());
            self.write_common(register + 4, &((value >> 32) as u32).to_le_bytes());
        }
        self.write_common(reg::QUEUE_ENABLE, &1_u16.to_le_bytes());
    }

    /// Says DRIVER_OK.
    pub fn driver_ok(&self) {
        self.write_status(self.status() | reg::DRIVER_OK);
    }

    /// Resets the device, and waits until it says that it is.
    pub fn reset(&mut self) {
        self.write_status(0);
        self.wait_until("the device is reset", |driver| driver.status() == 0);
        self.queues.clear();
        self.next_buffer = BUFFERS;
        for vector in 0..self.sink.vectors() {
            self.sink.take(vector);
        }
    }

    /// The status register.
    pub fn status(&self) -> u8 {
        self.read_common(reg::STATUS)
    }

    /// Writes the status register.
    pub fn write_status(&self, status: u8) {
        self.write_common(reg::STATUS, &[status]);
    }

    /// Whether the device says that it is broken.
    pub fn needs_reset(&self) -> bool {
        self.status() & reg::NEEDS_RESET != 0
    }

    /// Waits until the device says that it is broken.
    pub fn wait_needs_reset(&self) {
        self.wait_until("the device is broken", Self::needs_reset);
    }

    /// What the device offers.
    pub fn offered(&self) -> u64 {
        (0..2_u32).fold(0, |features, select| {
            self.write_common(reg::DEVICE_FEATURE_SELECT, &select.to_le_bytes());
            let half: u32 = self.read_common(reg::DEVICE_FEATURE);
            features | u64::from(half) << (32 * select)
        })
    }

    /// What the driver has accepted.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many queues the device has.
    pub fn num_queues(&self) -> u16 {
        self.read_common(reg::NUM_QUEUES)
    }

    /// The configuration's generation.
    pub fn generation(&self) -> u8 {
        self.read_common(reg::GENERATION)
    }

    /// Reads device configuration space; numbers are little-endian there.
    pub fn read_config<T: ByteValued + Default>(&self, offset: u64) -> T {
        let mut value = T::default();
        self.read(self.structures[3] + offset, value.as_mut_slice());
        value
    }

    /// Writes device configuration space.
    pub fn write_config<T: ByteValued>(&self, offset: u64, value: T) {
        self.write(self.structures[3] + offset, value.as_slice());
    }

    /// Guest memory for `len` bytes of buffers, until all chains of all queues are given back.
    pub fn allocate(&mut self, len: u64) -> u64 {
        if self.queues.iter().flatten().all(|q| q.in_flight() == 0) {
            self.next_buffer = BUFFERS;
        }
        let at = self.next_buffer;
        self.next_buffer += len.next_multiple_of(16);
        assert!(self.next_buffer <= RAM, "the mock guest is out of memory");
        at
    }

    /// Makes a chain available: buffers with the bytes of `readable`, then those of the lengths of
    /// `writable`, filled with 0xaa. Returns its head.
    pub fn add(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let buffers = self.buffers(readable, writable);
        self.queue(queue).add(&buffers).expect("free descriptors")
    }

    /// As [`add`](Self::add), by an indirect table.
    pub fn add_indirect(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> u16 {
        let buffers = self.buffers(readable, writable);
        let table = self.allocate_more(buffers.len() as u64 * 16);
        self.queue(queue)
            .add_indirect(table, &buffers)
            .expect("a free descriptor")
    }

    /// Kicks a queue if its device wants to know of what was added since the last kick, as a stock
    /// driver does (virtio 1.2, 2.7.10 and 2.7.7.1), and says whether it did. A device that does not
    /// ask again, by [`Queue::enable_kicks`](crate::Queue::enable_kicks), hears of nothing more.
    pub fn kick(&mut self, queue: u16) -> bool {
        let event_idx = self.accepted & features::RING_EVENT_IDX != 0;
        let wanted = self.queue(queue).wants_kick(event_idx);
        if wanted {
            self.force_kick(queue);
        }
        wanted
    }

    /// Kicks a queue, wanted or not, set up or not: by its ioeventfd or, if there is none, by an
    /// access that exits.
    pub fn force_kick(&self, queue: u16) {
        let address = self.notify_address(queue);
        if !self.binder.signal(address) {
            self.write(address, &queue.to_le_bytes());
        }
    }

    /// Where a queue is kicked.
    pub fn notify_address(&self, queue: u16) -> u64 {
        self.structures[1] + u64::from(queue) * 4
    }

    /// Takes a chain that was given back, if there is one.
    pub fn take_used(&mut self, queue: u16) -> Option<Used> {
        let (head, len, buffers) = self.queue(queue).take_used()?;
        let mut written = Vec::new();
        for buffer in buffers.iter().filter(|buffer| buffer.writable) {
            let start = written.len();
            written.resize(start + buffer.len as usize, 0);
            self.memory()
                .read_slice(&mut written[start..], GuestAddress(buffer.addr))
                .unwrap();
        }
        Some(Used { head, len, written })
    }

    /// Waits for the queue's interrupt until a chain is given back, and takes it.
    ///
    /// # Panics
    /// After 10 seconds.
    pub fn wait_used(&mut self, queue: u16) -> Used {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(used) = self.take_used(queue) {
                return used;
            }
            let ring = self.queue(queue);
            ring.set_used_event(ring.next_used());
            if let Some(used) = self.take_used(queue) {
                return used;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                self.wait_interrupt(queue + 1, left),
                "queue {queue} is not served: status {:#x}",
                self.status()
            );
        }
    }

    /// Makes a chain available, kicks, and waits for it.
    pub fn request(&mut self, queue: u16, readable: &[&[u8]], writable: &[u32]) -> Used {
        let head = self.add(queue, readable, writable);
        self.kick(queue);
        let used = self.wait_used(queue);
        assert_eq!(used.head, head, "another chain was given back");
        used
    }

    /// Waits for an interrupt at `vector` and takes it; false when `time` is over.
    pub fn wait_interrupt(&self, vector: u16, time: Duration) -> bool {
        let event = self.sink.event_fd(vector).unwrap();
        poll_readable(event.as_raw_fd(), time) && self.sink.take(vector) > 0
    }

    /// Polls until `condition` holds.
    ///
    /// # Panics
    /// After 10 seconds.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < end, "it does not come that {what}");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Reads a register of the common structure.
    pub fn read_common<T: ByteValued + Default>(&self, offset: u64) -> T {
        let mut value = T::default();
        self.read(self.structures[0] + offset, value.as_mut_slice());
        value
    }

    /// Writes a register of the common structure.
    pub fn write_common(&self, offset: u64, data: &[u8]) {
        self.write(self.structures[0] + offset, data);
    }

    /// Reads the ISR status.
    pub fn read_isr(&self) -> u8 {
        let mut data = [0];
        self.read(self.structures[2], &mut data);
        data[0]
    }

    /// Reads the device's PCI configuration space.
    pub fn read_config_space(&self, offset: u16, data: &mut [u8]) {
        self.bus.read_ecam(SLOT << 15 | u64::from(offset), data);
    }

    /// Writes the device's PCI configuration space.
    pub fn write_config_space(&self, offset: u16, data: &[u8]) {
        self.bus.write_ecam(SLOT << 15 | u64::from(offset), data);
    }

    /// A guest's read in the device's BAR.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        assert!(self.bus.read_memory(address, data), "no BAR is there");
    }

    /// A guest's write in the device's BAR.
    pub fn write(&self, address: u64, data: &[u8]) {
        assert!(self.bus.write_memory(address, data), "no BAR is there");
    }

    /// Finds the structures as a driver does, by the capabilities; enables memory and bus master.
    pub fn probe(&mut self) {
        self.write_config_space(4, &0x0006_u16.to_le_bytes());
        let mut structures = [None; 4];
        for (offset, id) in self.capabilities() {
            let mut body = [0; 16];
            self.read_config_space(offset, &mut body);
            let kind = usize::from(body[3]);
            if id != Capability::VENDOR
                || !(1..=4).contains(&kind)
                || structures[kind - 1].is_some()
            {
                continue;
            }
            let start = u32::from_le_bytes([body[8], body[9], body[10], body[11]]);
            structures[kind - 1] = Some(self.bar(body[4]) + u64::from(start));
        }
        let [common, notify, isr, device] = structures.map(|found| found.expect("a structure"));
        self.structures = [common, notify, isr, device];
    }

    /// Offsets and ids of the PCI capabilities.
    pub fn capabilities(&self) -> Vec<(u16, u8)> {
        let mut found = Vec::new();
        let mut next = [0];
        self.read_config_space(0x34, &mut next);
        while next[0] != 0 {
            let at = u16::from(next[0]);
            let mut header = [0; 2];
            self.read_config_space(at, &mut header);
            found.push((at, header[0]));
            next = [header[1]];
        }
        found
    }

    fn bar(&self, bar: u8) -> u64 {
        let mut bytes = [0; 8];
        self.read_config_space(0x10 + u16::from(bar) * 4, &mut bytes);
        u64::from_le_bytes(bytes) & !0xf
    }

    fn msix_control(&self) -> u16 {
        let capabilities = self.capabilities();
        let msix = capabilities.iter().find(|(_, id)| *id == Capability::MSIX);
        msix.expect("MSI-X").0 + 2
    }

    fn buffers(&mut self, readable: &[&[u8]], writable: &[u32]) -> Vec<Buffer> {
        let mut buffers = Vec::with_capacity(readable.len() + writable.len());
        self.allocate(0);
        for bytes in readable {
            let addr = self.allocate_more(bytes.len() as u64);
            self.memory()
                .write_slice(bytes, GuestAddress(addr))
                .unwrap();
            buffers.push(Buffer {
                addr,
                len: u32::try_from(bytes.len()).unwrap(),
                writable: false,
            });
        }
        for &len in writable {
            let addr = self.allocate_more(len.into());
            let fill = vec![0xaa; len as usize];
            self.memory()
                .write_slice(&fill, GuestAddress(addr))
                .unwrap();
            buffers.push(Buffer {
                addr,
                len,
                writable: true,
            });
        }
        buffers
    }

    /// Allocates behind what was allocated last.
    fn allocate_more(&mut self, len: u64) -> u64 {
        let at = self.next_buffer;
        self.next_buffer += len.next_multiple_of(16);
        assert!(self.next_buffer <= RAM, "the mock guest is out of memory");
        at
    }

    /// Queues lie one after another, at their largest sizes.
    fn queue_address(&self, index: u16) -> u64 {
        let mut at = QUEUES;
        for before in 0..index {
            self.write_common(reg::QUEUE_SELECT, &before.to_le_bytes());
            let size = self.read_common::<u16>(reg::QUEUE_SIZE);
            at += MockQueue::bytes(size).next_multiple_of(4096);
        }
        assert!(at < BUFFERS, "the mock guest has no room for its queues");
        at
    }
}

fn plug(
    device: Box<dyn Device>,
    bus: &Bus,
    memory: &GuestMemory,
    sink: &Arc<RecordingSink>,
    binder: &Arc<MockBinder>,
) -> Arc<VirtioPci> {
    let device = VirtioPci::new(device, memory.clone(), sink.clone(), binder.clone());
    let device = Arc::new(device.unwrap());
    bus.add_at(SLOT as u8, device.clone()).unwrap();
    device
}
