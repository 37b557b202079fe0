//! Frames and bytes per second of CPU time, from the ring to a tap whose frames a network namespace
//! receives, and from there back; beside the bare tap, written and read by a loop that does nothing
//! else, in the same run.
//!
//! Both use as many buffers, one after the other: what is in the cache of one is in that of the other.
//! And where buffers are a driver's, both have to wait until it gives them back: the thread that
//! floods does that, between one frame and the next.
//! Of the card, the CPU time of its worker thread counts: what the driver does is not its cost. Of
//! the bare tap, that of the thread that makes the system calls. The two take turns. Of each the best
//! of fifteen rounds is shown, since what other programs do to caches can only add to CPU time, and
//! the median beside it.
//!
//! `cargo bench -p strata-net` (needs root and `ip`); `-- receive 65000` measures only that.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{IoSliceMut, Read, Write};
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use strata_net::test_utils::{MockNic, Namespace};
use strata_net::{Card, CardConfig, HEADER_LEN, Offloads, RateLimit, Tap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(250);

/// Nanoseconds of CPU time of a thread of this process.
fn cpu_nanos(thread: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

fn own_thread() -> String {
    let path = fs::read_link("/proc/thread-self").unwrap();
    path.file_name().unwrap().to_str().unwrap().to_owned()
}

/// A thread names itself, some time after its start.
fn thread_named(name: &str) -> String {
    loop {
        for task in fs::read_dir("/proc/self/task").unwrap() {
            let id = task.unwrap().file_name().to_str().unwrap().to_owned();
            let comm = fs::read_to_string(format!("/proc/self/task/{id}/comm"));
            if comm.is_ok_and(|comm| comm.trim() == name) {
                return id;
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A header and an IPv4 UDP datagram of `len` bytes with Ethernet header, to a closed port; large
/// ones as one TCP segment to be cut by whoever needs it cut.
fn frame(len: usize, to: [u8; 6]) -> Vec<u8> {
    let large = len > 1514;
    let mut ip = vec![
        0x45,
        0,
        0,
        0,
        0,
        0,
        0x40,
        0,
        64,
        if large { 6 } else { 17 },
        0,
        0,
    ];
    ip.extend([192, 0, 2, 2, 192, 0, 2, 1]);
    let ip_len = u16::try_from(len - 14).unwrap();
    ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
    let sum: u32 = ip
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut bytes = vec![0; HEADER_LEN];
    if large {
        // NEEDS_CSUM, TCPv4, header length, segment size, checksum start and offset.
        bytes[..10].copy_from_slice(&[1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0]);
    }
    bytes.extend(to);
    bytes.extend([0x52, 0x54, 0, 0, 0, 2, 8, 0]);
    bytes.extend(ip);
    if large {
        bytes.extend([
            0x12, 0x34, 0, 9, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff,
        ]);
    } else {
        let udp_len = u16::try_from(len - 34).unwrap().to_be_bytes();
        bytes.extend([0x12, 0x34, 0, 9, udp_len[0], udp_len[1], 0, 0]);
    }
    bytes.resize(HEADER_LEN + len, 0x5a);
    bytes
}

struct Measured {
    frames: u64,
    cpu: u64,
    wall: u64,
}

/// A tap in a namespace that receives and drops what comes in.
fn tap(host: &Namespace, name: &str) -> (Tap, [u8; 6]) {
    let tap = host
        .run(|| Tap::open(Some(&name.parse().unwrap()), 1))
        .unwrap();
    host.ip(&format!("link set {name} addrgenmode none up mtu 65521"))
        .unwrap();
    let text = host.ip(&format!("-br link show dev {name}")).unwrap();
    let mac: strata_net::MacAddr = text.split_whitespace().nth(2).unwrap().parse().unwrap();
    (tap, mac.bytes())
}

/// Send buffers of the mock driver, and receive buffers of 4 KiB together.
const SEND_BUFFERS: usize = 64;
const RECEIVE_BYTES: usize = 192 * 4096;

fn bare_send(file: &mut File, frame: &[u8]) -> Measured {
    let buffers = vec![frame.to_vec(); SEND_BUFFERS];
    let thread = own_thread();
    let (start, cpu) = (Instant::now(), cpu_nanos(&thread));
    let mut frames = 0;
    while start.elapsed() < ROUND {
        for buffer in &buffers {
            file.write_all(buffer).unwrap();
        }
        frames += SEND_BUFFERS as u64;
    }
    Measured {
        frames,
        cpu: cpu_nanos(&thread) - cpu,
        wall: start.elapsed().as_nanos() as u64,
    }
}

fn card_send(nic: &mut MockNic, link: &strata_net::Link, worker: &str, len: u32) -> Measured {
    let sent = || link.statistics().tx_frames;
    let (start, cpu, before) = (Instant::now(), cpu_nanos(worker), sent());
    while start.elapsed() < ROUND {
        let mut queued = false;
        while nic.queue_as_it_is(len) {
            queued = true;
        }
        if queued {
            nic.kick();
        }
        std::thread::yield_now();
    }
    let frames = sent() - before;
    Measured {
        frames,
        cpu: cpu_nanos(worker) - cpu,
        wall: start.elapsed().as_nanos() as u64,
    }
}

/// What sends frames into the tap's host side, so that the tap has them to read.
struct Flood {
    sockets: Vec<UdpSocket>,
    payload: Vec<u8>,
}

impl Flood {
    fn new(host: &Namespace, payload: usize) -> Self {
        // A socket has room for two of the largest; together they fill the queue of the tap.
        let sockets = (0..32).map(|_| {
            let socket = host.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        Self {
            sockets: sockets.collect(),
            payload: vec![0x5a; payload],
        }
    }

    /// One frame from each socket that has room, `between` one and the next; lets others run where
    /// none has.
    fn send(&self, mut between: impl FnMut()) {
        let mut full = true;
        for socket in &self.sockets {
            full &= socket.send_to(&self.payload, "192.0.2.2:9").is_err();
            between();
        }
        if full {
            std::thread::yield_now();
        }
    }
}

/// The buffers that a driver lends, as one that is nothing but counters has them.
struct Lender {
    /// Buffers that are filled, and those of them that came back.
    filled: AtomicU64,
    returned: AtomicU64,
    /// Whether the receiver sleeps for want of buffers.
    wanting: AtomicBool,
    kick: EventFd,
}

impl Lender {
    fn new() -> Self {
        Self {
            filled: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            wanting: AtomicBool::new(false),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
        }
    }

    /// The driver's part.
    fn give_back(&self) {
        let filled = self.filled.load(Ordering::Acquire);
        if filled != self.returned.load(Ordering::Relaxed) {
            self.returned.store(filled, Ordering::SeqCst);
            if self.wanting.swap(false, Ordering::SeqCst) {
                self.kick.write(1).unwrap();
            }
        }
    }

    /// Whether `count` buffers are there; if not, there is a kick when more are.
    fn has(&self, count: u64) -> bool {
        let enough = |order| {
            let lent = self.filled.load(Ordering::Relaxed) - self.returned.load(order);
            lent + count <= (RECEIVE_BYTES / 4096) as u64
        };
        if enough(Ordering::Acquire) {
            return true;
        }
        self.wanting.store(true, Ordering::SeqCst);
        enough(Ordering::SeqCst)
    }
}

/// What a program has to do that receives frames into a driver's buffers and is no more than that:
/// sleep until the tap has frames and the driver has lent buffers, read each frame into buffers of
/// 4 KiB, until there is none.
fn bare_receive(file: &mut File, len: usize, lender: &Lender) -> Measured {
    let pieces = (len + HEADER_LEN).div_ceil(4096);
    let mut memory = vec![0; RECEIVE_BYTES];
    let mut buffers: Vec<_> = memory.chunks_exact_mut(4096).map(IoSliceMut::new).collect();
    let epoll = Epoll::new().unwrap();
    let events = EventSet::IN | EventSet::EDGE_TRIGGERED;
    let event = EpollEvent::new(events, 0);
    epoll
        .ctl(ControlOperation::Add, file.as_raw_fd(), event)
        .unwrap();
    epoll
        .ctl(ControlOperation::Add, lender.kick.as_raw_fd(), event)
        .unwrap();
    let mut ready = [EpollEvent::default(); 2];
    let mut at = 0;
    let thread = own_thread();
    let (start, cpu) = (Instant::now(), cpu_nanos(&thread));
    let mut frames = 0;
    while start.elapsed() < ROUND {
        epoll.wait(10, &mut ready).unwrap();
        while lender.has(pieces as u64) && file.read_vectored(&mut buffers[at..at + pieces]).is_ok()
        {
            frames += 1;
            lender.filled.fetch_add(pieces as u64, Ordering::Release);
            at = if at + 2 * pieces > buffers.len() {
                0
            } else {
                at + pieces
            };
        }
    }
    Measured {
        frames,
        cpu: cpu_nanos(&thread) - cpu,
        wall: start.elapsed().as_nanos() as u64,
    }
}

/// The driver's part and the flood have one thread, so that as many run as with the bare tap.
fn card_receive(
    nic: &mut MockNic,
    link: &strata_net::Link,
    worker: &str,
    flood: &Flood,
) -> Measured {
    let received = || link.statistics().rx_frames;
    let (start, cpu, before) = (Instant::now(), cpu_nanos(worker), received());
    while start.elapsed() < ROUND {
        flood.send(|| {
            nic.recycle();
        });
    }
    Measured {
        frames: received() - before,
        cpu: cpu_nanos(worker) - cpu,
        wall: start.elapsed().as_nanos() as u64,
    }
}

fn show(what: &str, len: usize, bare: &mut [Measured], card: &mut [Measured]) {
    let mut results = Vec::new();
    for (name, rounds) in [("bare tap", bare), ("card", card)] {
        rounds.sort_by(|a, b| (a.cpu * b.frames).cmp(&(b.cpu * a.frames)));
        let per_cpu = |round: &Measured| round.frames as f64 / (round.cpu as f64 / 1e9);
        let [best, median] = [per_cpu(&rounds[0]), per_cpu(&rounds[ROUNDS / 2])];
        let per_wall = rounds[0].frames as f64 / (rounds[0].wall as f64 / 1e9);
        println!(
            "{what:8} {len:6} B  {name:9} {best:9.0} frames/CPU s  {:8.1} MB/CPU s  \
             {:6.0} ns/frame (median {:6.0})  {per_wall:8.0} frames/s wall",
            best * len as f64 / 1e6,
            1e9 / best,
            1e9 / median
        );
        results.push([best, median]);
    }
    let ratio = |which: usize| 100.0 * results[1][which] / results[0][which];
    println!(
        "{what:8} {len:6} B  card/bare {:.1} % (median {:.1} %)",
        ratio(0),
        ratio(1)
    );
}

fn main() {
    let load = fs::read_to_string("/proc/loadavg").unwrap();
    println!("load {}", load.trim());
    // What cargo passes by itself is for other harnesses.
    let args: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = args.iter().filter(|arg| !arg.starts_with('-')).collect();
    let wanted = |what: &str| {
        words
            .iter()
            .all(|word| what.split(' ').any(|part| part == *word))
    };
    for len in [64, 1500, 65_000] {
        if wanted(&format!("send {len}")) {
            send(len);
        }
    }
    for len in [64, 1500, 65_000] {
        if wanted(&format!("receive {len}")) {
            receive(len);
        }
    }
    if wanted("idle") {
        idle();
    }
}

fn card_on(tap: Tap) -> (Card, strata_net::Link) {
    let config = CardConfig {
        name: "bench".to_owned(),
        mac: "52:54:00:00:00:02".parse().unwrap(),
        mtu: 1500,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    };
    let card = Card::new(config, tap.into_backend()).unwrap();
    let link = card.link();
    (card, link)
}

fn send(len: usize) {
    let host = Namespace::new().unwrap();
    let (bare_tap, bare_mac) = tap(&host, "bare");
    let (card_tap, card_mac) = tap(&host, "card");
    let mut file = File::from(bare_tap.queues()[0].as_fd().try_clone_to_owned().unwrap());
    let (card, link) = card_on(card_tap);
    let mut nic = MockNic::new(card, u64::MAX, 2048);
    let worker = thread_named("bench.0");
    let bytes = frame(len, card_mac);
    nic.fill(&bytes);
    let bare_bytes = frame(len, bare_mac);
    let (mut bare, mut card) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(bare_send(&mut file, &bare_bytes));
        card.push(card_send(&mut nic, &link, &worker, bytes.len() as u32));
    }
    show("send", len, &mut bare, &mut card);
}

fn receive(len: usize) {
    // A frame of its own namespace each, so that both have the same address and flood.
    let hosts = [Namespace::new().unwrap(), Namespace::new().unwrap()];
    let [bare_tap, card_tap] = ["bare", "card"].map(|name| {
        let host = &hosts[usize::from(name == "card")];
        let (tap, _) = tap(host, name);
        host.ip(&format!("address add 192.0.2.1/24 dev {name}"))
            .unwrap();
        host.ip(&format!(
            "neighbour add 192.0.2.2 lladdr 52:54:00:00:00:02 dev {name}"
        ))
        .unwrap();
        tap
    });
    bare_tap.queues()[0]
        .set_offloads(Offloads::ALL_BUT_USO)
        .unwrap();
    let mut file = File::from(bare_tap.queues()[0].as_fd().try_clone_to_owned().unwrap());
    let (card, link) = card_on(card_tap);
    let mut nic = MockNic::new(card, u64::MAX, 4096);
    let worker = thread_named("bench.0");
    let floods = hosts.map(|host| Flood::new(&host, len - 42));
    let (mut bare, mut card) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (stop, lender) = (AtomicBool::new(false), Lender::new());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    floods[0].send(|| lender.give_back());
                }
            });
            bare.push(bare_receive(&mut file, len, &lender));
            stop.store(true, Ordering::Relaxed);
        });
        card.push(card_receive(&mut nic, &link, &worker, &floods[1]));
    }
    show("receive", len, &mut bare, &mut card);
}

/// Memory that a card takes which is set up and does nothing.
fn idle() {
    let host = Namespace::new().unwrap();
    let resident = || -> u64 {
        let text = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("Private_Dirty"))
            .unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let mut taps: Vec<_> = (0..17)
        .map(|index| tap(&host, &format!("idle{index}")).0)
        .collect();
    // The first one's memory is also that of what is done for the first time.
    let mut cards = vec![plain_driver(taps.pop().unwrap())];
    let before = resident();
    for tap in taps {
        cards.push(plain_driver(tap));
    }
    std::thread::sleep(Duration::from_millis(200));
    println!(
        "idle     {} KiB per card and its mock machine",
        (resident() - before) / 16
    );
}

fn plain_driver(tap: Tap) -> strata_virtio::test_utils::MockDriver {
    let (card, _) = card_on(tap);
    let mut driver = strata_virtio::test_utils::MockDriver::new(Box::new(card));
    driver.start(u64::MAX);
    driver
}
