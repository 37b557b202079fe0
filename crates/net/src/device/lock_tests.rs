//! No lock lies between a kick and a frame, nor between a frame and its interrupt: frames pass both
//! ways while somebody else holds all of the card's and its tap's.
#![allow(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use super::{Card, CardConfig};
use crate::test_utils::{MockNic, Namespace};
use crate::{Backend, HEADER_LEN, RateLimit, Tap};

/// A broadcast of the local experimental EtherType, with a header that says nothing.
fn frame(mark: u8) -> Vec<u8> {
    let mut frame = vec![0; HEADER_LEN];
    frame.extend([0xff; 6]);
    frame.extend([0x52, 0x54, 0, 0, 0, mark, 0x88, 0xb5]);
    frame.resize(HEADER_LEN + 60, mark);
    frame
}

/// Polls until a frame comes that is ours.
fn wait(mut get: impl FnMut() -> Option<Vec<u8>>) -> Vec<u8> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match get() {
            Some(frame) if frame[HEADER_LEN + 12..][..2] == [0x88, 0xb5] => return frame,
            _ => assert!(Instant::now() < end, "no frame comes: somebody waits"),
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn next(end: &mut File) -> Option<Vec<u8>> {
    let mut bytes = [0; 2048];
    let len = end.read(&mut bytes).ok()?;
    Some(bytes[..len].to_vec())
}

/// A tap that is up and a port of `br0`.
fn port(host: &Namespace, name: &str) -> Tap {
    let parsed = name.parse().unwrap();
    let tap = host.run(|| Tap::open(Some(&parsed), 1)).unwrap();
    host.ip(&format!("link set {name} addrgenmode none"))
        .unwrap();
    host.ip(&format!("link set {name} up master br0")).unwrap();
    tap
}

#[test]
fn frames_pass_while_all_locks_are_held() {
    let host = Namespace::new().unwrap();
    host.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0")
        .unwrap();
    host.ip("link set br0 addrgenmode none").unwrap();
    host.ip("link set br0 up").unwrap();
    let far = port(&host, "far");
    let mut far_end = File::from(far.queues()[0].as_fd().try_clone_to_owned().unwrap());
    let (endpoints, uplink) = port(&host, "near").into_ends();
    let uplink = Arc::new(uplink);
    let backend = Backend {
        endpoints,
        uplink: uplink.clone(),
        vhost: Vec::new(),
    };
    let config = CardConfig {
        name: "net0".to_owned(),
        mac: "52:54:00:12:34:56".parse().unwrap(),
        mtu: 1500,
        rx_limit: RateLimit::default(),
        tx_limit: RateLimit::default(),
    };
    let card = Card::new(config, backend).unwrap();
    let (shared, slots) = (Arc::clone(&card.shared), card.slots.clone());
    let mut nic = MockNic::new(card, u64::MAX, 2048);
    // The worker has its endpoint, and has gone to sleep at least once.
    assert!(nic.send(&frame(0)));
    wait(|| next(&mut far_end));

    // By another thread: one that holds a lock itself would pass where it is asked for again.
    let (taken, done) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let held = (
                shared.config.changed.lock().unwrap(),
                uplink.attached.lock().unwrap(),
                slots
                    .iter()
                    .map(|slot| slot.0.lock().unwrap())
                    .collect::<Vec<_>>(),
            );
            taken.wait();
            done.wait();
            drop(held);
        });
        taken.wait();
        let passed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for mark in 1..=100 {
                assert!(nic.send(&frame(mark)));
                let got = wait(|| next(&mut far_end));
                assert_eq!(got[HEADER_LEN..], frame(mark)[HEADER_LEN..]);
                far_end.write_all(&frame(mark)).unwrap();
                let got = wait(|| nic.receive());
                assert_eq!(got[HEADER_LEN..], frame(mark)[HEADER_LEN..]);
            }
        }));
        done.wait();
        if let Err(panic) = passed {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(!nic.driver().needs_reset());
}
