//! qemu-storage-daemon's vhost-user-blk export, driven by the same rings: a frontend that says no
//! more than it must (the vhost-user protocol, without protocol features).

use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use strata_block::{Cache, Format};
use strata_memory::{Backing, GuestMemory, GuestRam, MemorySize, Pages, RamConfig, RamLayout};
use strata_virtio::features::{RING_EVENT_IDX, VERSION_1};
use strata_virtio::test_utils::MockQueue;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

use crate::cpu;
use crate::guest::Front;

const RAM: u64 = 16 << 20;
const QUEUE: u64 = 0x1000;
const QUEUE_SIZE: u16 = 128;
const PATIENCE: Duration = Duration::from_secs(10);

/// Requests of the protocol that are used.
mod request {
    pub(super) const GET_FEATURES: u32 = 1;
    pub(super) const SET_FEATURES: u32 = 2;
    pub(super) const SET_OWNER: u32 = 3;
    pub(super) const SET_MEM_TABLE: u32 = 5;
    pub(super) const SET_VRING_NUM: u32 = 8;
    pub(super) const SET_VRING_ADDR: u32 = 9;
    pub(super) const SET_VRING_BASE: u32 = 10;
    pub(super) const SET_VRING_KICK: u32 = 12;
    pub(super) const SET_VRING_CALL: u32 = 13;
}

/// The daemon with one queue, and the memory that it shares.
pub(crate) struct Daemon {
    child: Child,
    // The daemon stops when the stream ends.
    _stream: UnixStream,
    ram: GuestRam,
    queue: MockQueue,
    kicked: u16,
    kick: EventFd,
    call: EventFd,
}

impl Daemon {
    /// Starts it on the image at `path`; None where it is not installed.
    pub(crate) fn start(path: &Path, format: Format, cache: Cache) -> Option<Self> {
        let socket = path.with_extension("socket");
        let _ = std::fs::remove_file(&socket);
        let child = Command::new("qemu-storage-daemon")
            .args(["--object", "iothread,id=io", "--blockdev"])
            .arg(format!(
                "driver=file,node-name=file,filename={},locking=off,aio=io_uring,cache.direct={}",
                path.display(),
                if cache == Cache::Direct { "on" } else { "off" },
            ))
            .arg("--blockdev")
            .arg(match format {
                Format::Qcow2 => "driver=qcow2,node-name=disk,file=file",
                _ => "driver=raw,node-name=disk,file=file",
            })
            .arg("--export")
            .arg(format!(
                "type=vhost-user-blk,id=e,node-name=disk,writable=on,iothread=io,addr.type=unix,addr.path={}",
                socket.display()
            ))
            .stdin(Stdio::null())
            .spawn()
            .ok()?;
        let stream = connect(&socket);
        let config = RamConfig {
            size: MemorySize::new(RAM),
            backing: Backing::Memfd(Pages::Small),
        };
        let layout = RamLayout {
            low_end: RAM,
            high_start: RAM,
        };
        let ram = GuestRam::new(&config, &layout).unwrap();
        let queue = MockQueue::new(ram.memory(), QUEUE, QUEUE_SIZE);
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let daemon = Self {
            child,
            _stream: stream.try_clone().unwrap(),
            ram,
            queue,
            kicked: 0,
            kick: event(),
            call: event(),
        };
        daemon.negotiate(&stream);
        Some(daemon)
    }

    fn negotiate(&self, stream: &UnixStream) {
        send(stream, request::SET_OWNER, &[], None);
        send(stream, request::GET_FEATURES, &[], None);
        let mut reply = [0; 20];
        (&mut &*stream).read_exact(&mut reply).unwrap();
        let offered = u64::from_le_bytes(reply[12..].try_into().unwrap());
        let features = VERSION_1 | RING_EVENT_IDX;
        assert_eq!(offered & features, features);
        send(stream, request::SET_FEATURES, &[features], None);
        let region = self.ram.memory().iter().next().unwrap();
        let file = region.file_offset().unwrap();
        // Its addresses in the frontend's process are any that both agree on: the guest's.
        let table = [1, 0, RAM, 0, file.start()];
        send(
            stream,
            request::SET_MEM_TABLE,
            &table,
            Some(file.file().as_raw_fd()),
        );
        send(
            stream,
            request::SET_VRING_NUM,
            &[u64::from(QUEUE_SIZE) << 32],
            None,
        );
        send(stream, request::SET_VRING_BASE, &[0], None);
        let queue = &self.queue;
        let address = [0, queue.desc_table, queue.used_ring, queue.avail_ring, 0];
        send(stream, request::SET_VRING_ADDR, &address, None);
        send(
            stream,
            request::SET_VRING_CALL,
            &[0],
            Some(self.call.as_raw_fd()),
        );
        send(
            stream,
            request::SET_VRING_KICK,
            &[0],
            Some(self.kick.as_raw_fd()),
        );
    }
}

fn connect(socket: &Path) -> UnixStream {
    let end = Instant::now() + PATIENCE;
    loop {
        match UnixStream::connect(socket) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < end, "qemu-storage-daemon: {error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends a request of version 1: its number, flags and size, then words.
fn send(stream: &UnixStream, request: u32, words: &[u64], fd: Option<RawFd>) {
    let size = words.len() as u32 * 8;
    let mut message = [request, 1, size].map(u32::to_le_bytes).concat();
    message.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let fds: Vec<RawFd> = fd.into_iter().collect();
    let sent = stream.send_with_fds(&[message.as_slice()], &fds).unwrap();
    assert_eq!(sent, message.len());
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Front for Daemon {
    fn memory(&self) -> &GuestMemory {
        self.ram.memory()
    }

    fn queue(&mut self) -> &mut MockQueue {
        &mut self.queue
    }

    fn kick(&mut self, available: u16) {
        let old = std::mem::replace(&mut self.kicked, available);
        let event = self.queue.avail_event();
        // Virtio 1.2, 2.7.10.
        if available.wrapping_sub(event).wrapping_sub(1) < available.wrapping_sub(old) {
            self.kick.write(1).unwrap();
        }
    }

    fn wait_interrupt(&mut self) -> bool {
        cpu::wait_readable(self.call.as_raw_fd(), PATIENCE) && self.call.read().is_ok()
    }

    fn cpu(&self) -> Duration {
        cpu::of_process(self.child.id())
    }
}
