use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use strata_virtio::TransportState;
use strata_virtio::test_utils::MockDriver;

use crate::echo::Echo;
use crate::slow::{Probe, Slow, count};

const NEEDS_RESET: u8 = 64;
const DRIVER_OK: u8 = 4;
const SHORT: Duration = Duration::from_millis(30);

/// A started driver with a request in flight in queue 0.
fn busy(probe: &std::sync::Arc<Probe>) -> MockDriver {
    let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
    driver.start(u64::MAX);
    driver.wait_until("all workers run", |_| count(&probe.seen) == 0b111);
    driver.add(0, &[b"request"], &[1]);
    driver.kick(0);
    driver.wait_until("the request is in flight", |_| count(&probe.in_flight) == 1);
    driver
}

#[test]
fn a_reset_waits_for_what_is_in_flight_without_holding_the_vcpu() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    probe.may_drain.store(false, Ordering::SeqCst);
    driver.write_status(0);
    std::thread::sleep(SHORT);
    assert_ne!(driver.status(), 0, "a request is in flight");
    driver.write_status(DRIVER_OK);
    assert!(driver.binder().addresses().is_empty());
    probe.may_drain.store(true, Ordering::SeqCst);
    driver.wait_until("the device is reset", |driver| driver.status() == 0);
    assert_eq!(count(&probe.in_flight), 0);
    assert_eq!((count(&probe.workers), count(&probe.resets)), (0, 1));
    assert_eq!(driver.queue(0).used_idx(), 1, "it was finished before");
    driver.start(u64::MAX);
    assert_eq!(count(&probe.workers), 3);
}

#[test]
fn a_broken_worker_breaks_its_device_once_and_tells_the_driver() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    probe.fail.store(true, Ordering::SeqCst);
    driver.force_kick(1);
    driver.wait_needs_reset();
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert_eq!(driver.read_isr(), 2, "a configuration change");
    assert_eq!(driver.read_isr(), 0, "reading clears");
    // The other queues go on, this one does not.
    driver.add(2, &[b"x"], &[]);
    driver.kick(2);
    driver.wait_until("it is in flight", |_| count(&probe.in_flight) == 2);
    driver.add(1, &[b"x"], &[]);
    driver.kick(1);
    std::thread::sleep(SHORT);
    assert_eq!(count(&probe.in_flight), 2);
    // It can be paused as any other.
    driver.device().pause().unwrap();
    driver.device().resume().unwrap();
    assert_ne!(driver.status() & NEEDS_RESET, 0);
    driver.reset();
    assert_eq!(driver.status(), 0);
    driver.start(u64::MAX);
    assert!(!driver.needs_reset());
}

#[test]
fn a_broken_worker_finishes_what_is_in_flight() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    probe.fail.store(true, Ordering::SeqCst);
    driver.force_kick(0);
    driver.wait_needs_reset();
    driver.wait_until("it is drained", |_| count(&probe.drains) == 1);
    driver.wait_until("it is finished", |_| count(&probe.in_flight) == 0);
    assert_eq!(driver.queue(0).used_idx(), 1);
}

#[test]
fn a_pause_drains_and_a_resume_kicks_every_queue() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    driver.device().pause().unwrap();
    assert_eq!(count(&probe.in_flight), 0);
    assert_eq!(driver.queue(0).used_idx(), 1);
    driver.add(1, &[b"while paused"], &[]);
    driver.kick(1);
    std::thread::sleep(SHORT);
    assert_eq!(count(&probe.in_flight), 0, "it is parked");
    driver.device().resume().unwrap();
    driver.wait_until("it is in flight", |_| count(&probe.in_flight) == 1);
    driver.wait_until("all go on", |_| count(&probe.resumes) == 3);

    driver.device().pause().unwrap();
    driver.device().pause().unwrap();
    driver.reset();
    assert_eq!(count(&probe.workers), 0, "a paused device resets");
}

#[test]
fn a_pause_in_the_middle_of_a_reset_waits_for_its_end() {
    let probe = Probe::new();
    let driver = busy(&probe);
    probe.may_drain.store(false, Ordering::SeqCst);
    driver.write_status(0);
    std::thread::scope(|scope| {
        let pause = scope.spawn(|| driver.device().pause());
        std::thread::sleep(SHORT);
        assert!(!pause.is_finished(), "a request is in flight");
        probe.may_drain.store(true, Ordering::SeqCst);
        pause.join().unwrap().unwrap();
    });
    assert_eq!((count(&probe.in_flight), count(&probe.workers)), (0, 0));
    assert_eq!(driver.device().state().status, 0);
    driver.device().resume().unwrap();
    assert_eq!(driver.status(), 0);
}

#[test]
fn a_bar_that_moves_in_the_middle_of_a_reset_gets_no_ioeventfds() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    probe.may_drain.store(false, Ordering::SeqCst);
    driver.write_status(0);
    for command in [0_u16, 6] {
        driver.write_config_space(4, &command.to_le_bytes());
    }
    assert_ne!(driver.status(), 0, "a request is in flight");
    assert!(driver.binder().addresses().is_empty());
    probe.may_drain.store(true, Ordering::SeqCst);
    driver.wait_until("the device is reset", |driver| driver.status() == 0);
    assert!(driver.binder().addresses().is_empty());
    driver.start(u64::MAX);
    assert_eq!(driver.binder().addresses().len(), 3);
}

#[test]
fn commands_in_a_row_are_all_obeyed() {
    for _ in 0..50 {
        let probe = Probe::new();
        let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
        driver.start(u64::MAX);
        // A resume of what was not paused is nothing; the reset behind it is not lost.
        driver.device().resume().unwrap();
        driver.device().resume().unwrap();
        driver.reset();
        assert_eq!(count(&probe.workers), 0);
    }
}

#[test]
fn removing_the_device_ends_its_workers() {
    let probe = Probe::new();
    let driver = busy(&probe);
    assert_eq!(driver.binder().addresses().len(), 3);
    drop(driver.bus().remove(1));
    assert!(driver.binder().addresses().is_empty());
    driver.wait_until("the workers are gone", |_| count(&probe.workers) == 0);

    let probe = Probe::new();
    let driver = busy(&probe);
    driver.device().stop();
    assert_eq!(count(&probe.workers), 0);
    let probe = Probe::new();
    drop(busy(&probe));
    assert_eq!(count(&probe.workers), 0);
}

#[test]
fn a_change_of_configuration_is_told_when_the_driver_is_ready() {
    let probe = Probe::new();
    let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
    driver.negotiate(0);
    let before = driver.generation();
    probe.change.get().unwrap().change(|| {});
    assert_eq!(driver.generation(), before + 1);
    assert!(!driver.wait_interrupt(0, SHORT), "not before DRIVER_OK");
    // But then: it may have read the configuration before.
    driver.driver_ok();
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert!(!driver.wait_interrupt(0, SHORT), "once");
    probe.change.get().unwrap().change(|| {});
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert_eq!(driver.generation(), before + 2);
}

#[test]
fn a_change_before_a_driver_comes_is_no_news_to_it() {
    let probe = Probe::new();
    let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
    let change = probe.change.get().unwrap();
    change.change(|| {});
    driver.start(0);
    assert!(!driver.wait_interrupt(0, SHORT));
    driver.reset();
    change.change(|| {});
    driver.start(0);
    assert!(!driver.wait_interrupt(0, SHORT));
}

/// Whatever the order, the driver hears of a change that it may not have read.
#[test]
fn a_change_beside_driver_ok_is_told() {
    let probe = Probe::new();
    let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
    let change = probe.change.get().unwrap();
    for _ in 0..200 {
        driver.reset();
        driver.negotiate(0);
        std::thread::scope(|scope| {
            scope.spawn(|| change.change(|| {}));
            driver.driver_ok();
        });
        assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
        while driver.wait_interrupt(0, Duration::ZERO) {}
    }
}

/// A driver that reads as virtio 1.2, 2.5.1 has it never sees halves of two values.
#[test]
fn a_field_that_changes_while_it_is_read_is_seen_to_change() {
    let probe = Probe::new();
    let mut driver = MockDriver::new(Box::new(Slow(probe.clone())));
    driver.start(0);
    let change = probe.change.get().unwrap();
    let done = AtomicBool::new(false);
    let torn = std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..500 {
                change.change(|| {
                    probe.config.fetch_xor(u64::MAX, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_micros(50));
                });
                std::thread::sleep(Duration::from_micros(50));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut torn = 0;
        while !done.load(Ordering::Relaxed) {
            let before = driver.generation();
            let low: u32 = driver.read_config(0);
            let high: u32 = driver.read_config(4);
            if driver.generation() == before && low != high {
                torn += 1;
            }
        }
        torn
    });
    assert_eq!(torn, 0);
}

#[test]
fn a_saved_device_continues_with_its_queues() {
    let mut driver = MockDriver::new(Box::new(Echo::new()));
    driver.start(u64::MAX);
    for _ in 0..20 {
        driver.request(1, &[b"before"], &[6]);
    }
    driver.device().pause().unwrap();
    let state = driver.device().state();
    assert_eq!(state.queues[1].queue.next_avail, 20);
    assert_eq!(state.queues[1].queue.next_used, 20);
    let json = serde_json::to_string(&state).unwrap();
    let state: TransportState = serde_json::from_str(&json).unwrap();
    // A request that the old device has not seen.
    let head = driver.add(1, &[b"after"], &[5]);

    driver.replace_device(Box::new(Echo::new()));
    driver.device().set_state(&state).unwrap();
    assert_eq!(driver.device().state(), state);
    std::thread::sleep(SHORT);
    assert_eq!(driver.queue(1).used_idx(), 20, "parked until the resume");
    driver.device().resume().unwrap();
    let used = driver.wait_used(1);
    assert_eq!((used.head, &used.written[..]), (head, &b"after"[..]));
    assert_eq!(driver.request(0, &[b"more"], &[4]).written, b"more");
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let mut driver = MockDriver::new(Box::new(Echo::new()));
    driver.start(u64::MAX);
    driver.device().pause().unwrap();
    let good = driver.device().state();
    assert!(driver.device().set_state(&good).is_err(), "it is in use");
    let changes: [fn(&mut TransportState); 7] = [
        |state| state.queues.truncate(1),
        |state| state.queues[0].queue.desc_table = !15,
        |state| state.queues[0].queue.size = 3,
        |state| state.accepted |= 1 << 40,
        |state| state.accepted = 0,
        |state| state.msix.vectors.truncate(1),
        |state| state.config.bytes[0] ^= 1,
    ];
    for change in changes {
        let mut state = good.clone();
        change(&mut state);
        let fresh = MockDriver::new(Box::new(Echo::new()));
        assert!(fresh.device().set_state(&state).is_err());
    }
}

#[test]
fn a_reset_of_the_bus_resets_the_device_and_a_driver_finds_it_as_new() {
    let probe = Probe::new();
    let mut driver = busy(&probe);
    driver.bus().reset().unwrap();
    assert_eq!(count(&probe.in_flight), 0, "what was in flight is finished");
    assert_eq!((count(&probe.workers), count(&probe.resets)), (0, 1));
    assert!(driver.binder().addresses().is_empty());
    let mut command = [0; 2];
    driver.read_config_space(4, &mut command);
    assert_eq!(command, [0; 2], "nothing is decoded");
    driver.probe();
    assert_eq!(driver.status(), 0);
    driver.start(u64::MAX);
    assert_eq!(count(&probe.workers), 3);
}
