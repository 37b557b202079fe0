//! The console, driven by the mock driver.

#![allow(clippy::unwrap_used)]

mod sequence;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use strata_console::{Console, ConsoleHandle, MAX_PORTS, Port};
use strata_virtio::test_utils::{MockDriver, Used, hostile_suite};

fn pair() -> (UnixStream, UnixStream) {
    let (host, end) = UnixStream::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    host.set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    (host, end)
}

fn simple() -> (MockDriver, UnixStream, ConsoleHandle) {
    let (host, end) = pair();
    let console = Console::new(vec![Port::console(end)]).unwrap();
    let handle = console.handle();
    (MockDriver::new(Box::new(console)), host, handle)
}

fn bytes(used: &Used) -> &[u8] {
    &used.written[..used.len as usize]
}

fn read(host: &mut UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    host.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn bytes_go_both_ways_and_in_order() {
    let (mut driver, mut host, _) = simple();
    assert_eq!(driver.num_queues(), 2);
    driver.start(u64::MAX);
    for round in 0..100_u8 {
        driver.request(1, &[&[round], &[round; 3]], &[]);
        assert_eq!(read(&mut host, 4), [round; 4]);
        host.write_all(&[round; 5]).unwrap();
        let used = driver.request(0, &[], &[3, 2]);
        assert_eq!(bytes(&used), [round; 5]);
    }
}

#[test]
fn bytes_wait_for_buffers_and_buffers_for_bytes() {
    let (mut driver, mut host, _) = simple();
    host.write_all(b"before the driver").unwrap();
    driver.start(u64::MAX);
    assert_eq!(bytes(&driver.request(0, &[], &[64])), b"before the driver");
    for _ in 0..40 {
        driver.add(0, &[], &[2]);
    }
    driver.kick(0);
    host.write_all(&[b'x'; 80]).unwrap();
    for _ in 0..40 {
        assert_eq!(bytes(&driver.wait_used(0)), b"xx");
    }
    assert!(driver.take_used(0).is_none());
}

#[test]
fn a_slow_reader_holds_the_guest_and_loses_nothing() {
    let (mut driver, mut host, _) = simple();
    driver.start(u64::MAX);
    let text: Vec<u8> = (0..1_000_000_u32).map(|at| (at / 7) as u8).collect();
    for part in text.chunks(100_000) {
        driver.add(1, &[part], &[]);
    }
    driver.kick(1);
    std::thread::sleep(Duration::from_millis(50));
    assert!(driver.queue(1).in_flight() > 0);
    // The vCPU side, pause and resume, goes on meanwhile.
    driver.device().pause().unwrap();
    driver.device().resume().unwrap();
    assert_eq!(read(&mut host, text.len()), text);
    for _ in 0..10 {
        driver.wait_used(1);
    }
}

#[test]
fn a_stream_that_is_gone_takes_all_and_costs_no_time() {
    let (mut driver, host, _) = simple();
    driver.start(u64::MAX);
    driver.add(0, &[], &[64]);
    driver.kick(0);
    drop(host);
    driver.request(1, &[b"to nobody"], &[]);
    std::thread::sleep(Duration::from_millis(20));
    let before = cpu_time();
    std::thread::sleep(Duration::from_millis(300));
    assert!(cpu_time() - before < 0.15, "its worker spins");
    assert!(driver.take_used(0).is_none());
    assert!(!driver.needs_reset());
}

/// Seconds that this process has used.
fn cpu_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split(' ').collect();
    let ticks: f64 = fields[12].parse::<f64>().unwrap() + fields[13].parse::<f64>().unwrap();
    ticks / 100.0
}

#[test]
fn the_next_driver_has_the_same_streams() {
    let (mut driver, mut host, _) = simple();
    for _ in 0..3 {
        driver.start(u64::MAX);
        driver.request(1, &[b"boot"], &[]);
        assert_eq!(read(&mut host, 4), b"boot");
    }
}

#[test]
fn a_terminals_size_is_told() {
    let (mut driver, _host, handle) = simple();
    handle.resize(80, 25).unwrap();
    driver.start(u64::MAX);
    // A driver that starts hears of it too: Linux does not look by itself.
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert_eq!(driver.read_config::<u32>(0), 80 | 25 << 16);
    handle.resize(132, 50).unwrap();
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert_eq!(driver.read_config::<u32>(0), 132 | 50 << 16);
}

#[test]
fn who_is_at_the_hosts_end_may_come_and_go() {
    let console = Console::new(vec![Port::unconnected("")]).unwrap();
    let handle = console.handle();
    assert!(handle.connect(1, pair().1).is_err());
    let mut driver = MockDriver::new(Box::new(console));
    assert_eq!(driver.num_queues(), 2);
    // Before the driver, with it, and again.
    let (mut first, end) = pair();
    handle.connect(0, end).unwrap();
    driver.start(u64::MAX);
    for round in 0..3 {
        driver.request(1, &[b"heard"], &[]);
        assert_eq!(read(&mut first, 5), b"heard", "{round}");
        first.write_all(b"said").unwrap();
        assert_eq!(bytes(&driver.request(0, &[], &[64])), b"said");
        let (next, end) = pair();
        handle.connect(0, end).unwrap();
        // The one before is closed, and holds nothing.
        assert_eq!(first.read(&mut [0]).unwrap(), 0);
        first = next;
    }
    drop(first);
    driver.request(1, &[b"to nobody"], &[]);
    let (mut last, end) = pair();
    handle.connect(0, end).unwrap();
    last.write_all(b"back").unwrap();
    assert_eq!(bytes(&driver.request(0, &[], &[64])), b"back");
}

#[test]
fn a_port_without_anybody_takes_all() {
    let console = Console::new(vec![Port::unconnected("agent")]).unwrap();
    let mut driver = MockDriver::new(Box::new(console));
    driver.start(u64::MAX);
    driver.request(1, &[b"to nobody"], &[]);
    assert!(!driver.needs_reset());
}

fn control(port: u32, event: u16, value: u16) -> [u8; 8] {
    let mut message = [0; 8];
    message[..4].copy_from_slice(&port.to_le_bytes());
    message[4..6].copy_from_slice(&event.to_le_bytes());
    message[6..].copy_from_slice(&value.to_le_bytes());
    message
}

#[test]
fn ports_are_introduced_and_carry_bytes_when_open() {
    let (mut console, console_end) = pair();
    let (mut agent, agent_end) = pair();
    let ports = vec![
        Port::console(console_end),
        Port::named("agent.0", agent_end),
    ];
    let device = Console::new(ports).unwrap();
    let handle = device.handle();
    handle.resize(80, 25).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    assert_eq!(driver.num_queues(), 6);
    assert_eq!(driver.read_config::<u32>(4), 2);
    driver.start(u64::MAX);
    agent.write_all(b"early").unwrap();
    let say = |driver: &mut MockDriver, port, event, value| {
        driver.request(3, &[&control(port, event, value)], &[]);
    };
    let hear = |driver: &mut MockDriver| bytes(&driver.request(2, &[], &[64])).to_vec();
    say(&mut driver, 0, 0, 1);
    assert_eq!(hear(&mut driver), control(0, 1, 1));
    assert_eq!(hear(&mut driver), control(1, 1, 1));
    say(&mut driver, 0, 3, 1);
    assert_eq!(hear(&mut driver), control(0, 4, 1), "a console");
    assert_eq!(
        hear(&mut driver),
        [&control(0, 5, 0)[..], &[80, 0, 25, 0]].concat()
    );
    assert_eq!(hear(&mut driver), control(0, 6, 1));
    say(&mut driver, 1, 3, 1);
    assert_eq!(
        hear(&mut driver),
        [&control(1, 7, 1)[..], b"agent.0"].concat()
    );
    assert_eq!(hear(&mut driver), control(1, 6, 1));

    driver.request(1, &[b"console"], &[]);
    assert_eq!(read(&mut console, 7), b"console");
    driver.request(5, &[b"agent"], &[]);
    assert_eq!(read(&mut agent, 5), b"agent");
    driver.add(4, &[], &[64]);
    driver.kick(4);
    std::thread::sleep(Duration::from_millis(30));
    assert!(driver.take_used(4).is_none(), "nobody has opened it");
    say(&mut driver, 1, 6, 1);
    assert_eq!(bytes(&driver.wait_used(4)), b"early");
    // A console that is open is told its new size.
    say(&mut driver, 0, 6, 1);
    handle.resize(100, 30).unwrap();
    assert_eq!(hear(&mut driver)[8..], [100, 0, 30, 0]);
}

/// A console beside a named port, introduced, and its driver, which takes no control messages.
fn introduced() -> (MockDriver, [UnixStream; 2], ConsoleHandle) {
    let ((console, console_end), (agent, agent_end)) = (pair(), pair());
    let ports = vec![Port::console(console_end), Port::named("x", agent_end)];
    let device = Console::new(ports).unwrap();
    let handle = device.handle();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    driver.request(3, &[&control(0, 3, 1)], &[]);
    for _ in 0..3 {
        driver.request(2, &[], &[64]);
    }
    (driver, [console, agent], handle)
}

/// Has the worker look at all that has come before: it serves what is ready in turns.
fn settle(driver: &mut MockDriver) {
    for _ in 0..3 {
        // What no event has this number for.
        driver.request(3, &[&control(0, 99, 0)], &[]);
    }
}

#[test]
fn a_size_that_comes_before_the_console_is_open_is_told() {
    let (mut driver, _hosts, handle) = introduced();
    handle.resize(100, 30).unwrap();
    settle(&mut driver);
    driver.request(3, &[&control(0, 6, 1)], &[]);
    driver.add(2, &[], &[64]);
    driver.kick(2);
    assert_eq!(bytes(&driver.wait_used(2))[8..], [100, 0, 30, 0]);
    // Once.
    driver.request(3, &[&control(0, 6, 0)], &[]);
    driver.request(3, &[&control(0, 6, 1)], &[]);
    driver.add(2, &[], &[64]);
    driver.kick(2);
    settle(&mut driver);
    assert!(driver.take_used(2).is_none());
}

#[test]
fn sizes_that_the_guest_does_not_hear_of_do_not_pile_up() {
    let (mut driver, _hosts, handle) = introduced();
    driver.request(3, &[&control(0, 6, 1)], &[]);
    for rows in 0..200 {
        handle.resize(80, rows).unwrap();
        settle(&mut driver);
    }
    assert!(!driver.needs_reset());
    assert_eq!(bytes(&driver.request(2, &[], &[64]))[8..], [80, 0, 199, 0]);
    driver.add(2, &[], &[64]);
    driver.kick(2);
    settle(&mut driver);
    assert!(driver.take_used(2).is_none());
}

#[test]
fn control_messages_that_nobody_takes_end() {
    let (_host, end) = pair();
    let device = Console::new(vec![Port::named("x", end)]).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    for _ in 0..200 {
        driver.add(3, &[&control(0, 0, 1)], &[]);
        driver.kick(3);
        while driver.take_used(3).is_none() && !driver.needs_reset() {
            std::thread::yield_now();
        }
    }
    driver.wait_needs_reset();
}

#[test]
fn messages_that_make_no_sense() {
    let (_host, end) = pair();
    let device = Console::new(vec![Port::named("x", end)]).unwrap();
    let mut driver = MockDriver::new(Box::new(device));
    driver.start(u64::MAX);
    for message in [
        control(u32::MAX, 6, 1),
        control(0, 0xffff, 1),
        control(0, 0, 0),
    ] {
        driver.request(3, &[&message], &[]);
    }
    for message in [&control(9, 3, 1)[..], &[1, 2, 3]] {
        driver.start(u64::MAX);
        driver.add(3, &[message], &[]);
        driver.kick(3);
        driver.wait_needs_reset();
    }
}

#[test]
fn what_can_not_be_a_console_is_refused() {
    assert!(Console::new(Vec::new()).is_err());
    let many = (0..=MAX_PORTS).map(|_| Port::console(pair().1));
    assert!(Console::new(many.collect()).is_err());
    assert!(Console::new(vec![Port::named(&"n".repeat(256), pair().1)]).is_err());
}

#[test]
fn hostile_rings_break_the_device_and_no_more() {
    let make = || {
        let (host, end) = pair();
        // The host has something to say, and hears all.
        host.set_nonblocking(true).unwrap();
        let _ = (&host).write(&[b'x'; 1000]);
        std::mem::forget(host);
        let device = Console::new(vec![Port::console(end), Port::named("x", pair().1)]);
        Box::new(device.unwrap()) as Box<dyn strata_virtio::Device>
    };
    for outcome in hostile_suite(make) {
        // Receive queues are looked at when there is something to receive.
        let looks = !matches!(outcome.queue, Some(0 | 2 | 4));
        assert!(
            outcome.broken || !outcome.must_break || !looks,
            "{outcome:?}"
        );
    }
}

#[test]
fn stored_inputs_find_nothing() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/corpus");
    let inputs: Vec<_> = std::fs::read_dir(corpus).unwrap().collect();
    assert!(!inputs.is_empty());
    for input in inputs {
        sequence::run(&std::fs::read(input.unwrap().path()).unwrap());
    }
}
