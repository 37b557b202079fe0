//! The balloon, driven by the mock driver.

#![allow(clippy::unwrap_used)]

mod sequence;

use std::sync::Arc;
use std::time::Duration;

use strata_balloon::{Balloon, BalloonConfig, BalloonHandle, MAX_PAGES, Stats};
use strata_virtio::test_utils::{MockDriver, hostile_suite};
use vm_memory::{Bytes, GuestAddress};

fn balloon(config: BalloonConfig) -> (MockDriver, BalloonHandle) {
    let ram = Arc::new(strata_memory::test_utils::ram(16 << 20).unwrap());
    let balloon = Balloon::new(ram.clone(), config).unwrap();
    let handle = balloon.handle();
    (MockDriver::with_ram(Box::new(balloon), ram), handle)
}

fn numbers(pages: &[u32]) -> Vec<u8> {
    pages.iter().flat_map(|page| page.to_le_bytes()).collect()
}

/// Whether the page has a byte that is not zero.
fn is_filled(driver: &MockDriver, page: u64) -> bool {
    let mut bytes = [0; 4096];
    let at = GuestAddress(page * 4096);
    driver.memory().read_slice(&mut bytes, at).unwrap();
    bytes.iter().any(|byte| *byte != 0)
}

fn fill(driver: &MockDriver, pages: std::ops::Range<u64>) {
    for page in pages {
        let at = GuestAddress(page * 4096);
        driver.memory().write_slice(&[7; 4096], at).unwrap();
    }
}

#[test]
fn pages_that_are_given_go_to_the_host_and_no_others() {
    let (mut driver, handle) = balloon(BalloonConfig::default());
    driver.start(u64::MAX);
    fill(&driver, 3000..3020);
    // Upward, downward, alone, twice.
    let given = [3001, 3002, 3003, 3009, 3008, 3007, 3015, 3015];
    driver.request(0, &[&numbers(&given[..3]), &numbers(&given[3..])], &[]);
    for page in 3000..3020 {
        let expected = !given.contains(&u32::try_from(page).unwrap());
        assert_eq!(is_filled(&driver, page), expected, "page {page}");
    }
    assert!(handle.discarded() >= 7 * 4096);
    assert_eq!(handle.failures(), 0);
    // Deflating is nothing but saying so.
    driver.request(1, &[&numbers(&given)], &[]);
    fill(&driver, 3001..3002);
    assert!(is_filled(&driver, 3001));
}

#[test]
fn free_pages_that_are_reported_go_to_the_host() {
    let config = BalloonConfig {
        stats: false,
        ..BalloonConfig::default()
    };
    for (config, queue) in [(BalloonConfig::default(), 3), (config, 2)] {
        let (mut driver, handle) = balloon(config);
        driver.start(u64::MAX);
        // The first buffer of the mock driver is at 4 MiB, aligned to a page.
        driver.request(queue, &[], &[8192, 4096]);
        assert_eq!(handle.discarded(), 12288);
        assert!(!is_filled(&driver, 1024));
    }
}

#[test]
fn queues_of_features_that_were_not_accepted_are_not_counted() {
    let (mut driver, handle) = balloon(BalloonConfig::default());
    let statistics = 1 << 1;
    driver.start(!statistics);
    driver.request(2, &[], &[4096]);
    assert_eq!(handle.discarded(), 4096, "queue 2 is that of reporting");
}

#[test]
fn the_target_is_told() {
    let (mut driver, handle) = balloon(BalloonConfig::default());
    handle.set_target(4096 * 100 + 1);
    driver.start(u64::MAX);
    assert_eq!(driver.read_config::<u32>(0), 100);
    handle.set_target(u64::MAX);
    assert!(driver.wait_interrupt(0, Duration::from_secs(10)));
    assert_eq!(driver.read_config::<u32>(0), u32::MAX);
    driver.write_config(4, 50_u32);
    assert_eq!(handle.actual(), 50 * 4096);
    driver.write_config(0, 7_u32);
    driver.write_config(4, 7_u8);
    assert_eq!(
        (handle.target() / 4096, handle.actual()),
        (u32::MAX.into(), 50 * 4096)
    );
    driver.reset();
    assert_eq!(handle.actual(), 0);
}

fn stats(entries: &[(u16, u64)]) -> Vec<u8> {
    let bytes = entries.iter().map(|(tag, value)| {
        let mut entry = tag.to_le_bytes().to_vec();
        entry.extend_from_slice(&value.to_le_bytes());
        entry
    });
    bytes.flatten().collect()
}

#[test]
fn statistics_come_when_asked_for() {
    let (mut driver, handle) = balloon(BalloonConfig::default());
    driver.start(u64::MAX);
    let first = driver.add(2, &[&stats(&[(4, 1000), (5, 2000)])], &[]);
    driver.kick(2);
    driver.wait_until("the buffer is there", |_| handle.stats().0 == 1);
    let expected = Stats {
        free_memory: Some(1000),
        total_memory: Some(2000),
        ..Stats::default()
    };
    assert_eq!(handle.stats().1, expected);
    assert!(driver.take_used(2).is_none(), "it is held");

    // A pause puts it back, and a resume takes it again.
    driver.device().pause().unwrap();
    driver.device().resume().unwrap();
    driver.wait_until("it is there again", |_| handle.stats().0 == 2);
    handle.request_stats().unwrap();
    assert_eq!(driver.wait_used(2).head, first);
    driver.add(2, &[&stats(&[(4, 1), (77, 5), (9, 3)]), &[1, 2]], &[]);
    driver.kick(2);
    driver.wait_until("the next one is there", |_| handle.stats().0 == 3);
    let (_, stats) = handle.stats();
    assert_eq!(
        (stats.free_memory, stats.hugetlb_failures),
        (Some(1), Some(3))
    );
    assert_eq!(stats.total_memory, None);
}

#[test]
fn pages_that_the_guest_does_not_have_break_the_device() {
    for page in [4096, u32::MAX] {
        let (mut driver, _) = balloon(BalloonConfig::default());
        driver.start(u64::MAX);
        driver.add(0, &[&numbers(&[page])], &[]);
        driver.kick(0);
        driver.wait_needs_reset();
    }
}

#[test]
fn too_many_pages_at_once_break_the_device() {
    let (mut driver, handle) = balloon(BalloonConfig::default());
    driver.start(u64::MAX);
    let pages = vec![0; usize::try_from(MAX_PAGES).unwrap() + 1];
    driver.add(0, &[&numbers(&pages)], &[]);
    driver.kick(0);
    driver.wait_needs_reset();
    assert_eq!(handle.discarded(), 0);
}

#[test]
fn hostile_rings_break_the_device_and_no_more() {
    let make = || {
        let ram = Arc::new(strata_memory::test_utils::ram(16 << 20).unwrap());
        let balloon = Balloon::new(ram, BalloonConfig::default()).unwrap();
        Box::new(balloon) as Box<dyn strata_virtio::Device>
    };
    for outcome in hostile_suite(make) {
        assert!(outcome.broken || !outcome.must_break, "{outcome:?}");
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
