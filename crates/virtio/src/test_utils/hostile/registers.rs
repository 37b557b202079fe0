//! Registers written at the wrong time, or with what they can not hold.

use super::{Outcome, starts_again};
use crate::features;
use crate::test_utils::MockDriver;
use crate::test_utils::hostile::chains::Numbers;
use crate::transport::common as reg;

/// Sizes and places that no queue can have, found at DRIVER_OK at the latest.
pub(super) fn places(driver: &mut MockDriver, queue: u16) -> Vec<Outcome> {
    const RAM: u64 = 16 << 20;
    let good = [0x10_0000, 0x11_0000, 0x12_0000];
    driver.write_common(reg::QUEUE_SELECT, &queue.to_le_bytes());
    let max: u16 = driver.read_common(reg::QUEUE_SIZE);
    let mmio = driver.notify_address(0);
    let cases: &[(&'static str, u16, [u64; 3])] = &[
        ("a queue of no entries", 0, good),
        ("a queue of 3 entries", 3, good),
        ("a queue larger than offered", max.saturating_mul(2), good),
        ("a queue nowhere", max, [0; 3]),
        (
            "a table that is not aligned",
            max,
            [0x10_0008, good[1], good[2]],
        ),
        (
            "an available ring that is not aligned",
            max,
            [good[0], 0x11_0001, good[2]],
        ),
        (
            "a used ring that is not aligned",
            max,
            [good[0], good[1], 0x12_0002],
        ),
        ("a table in MMIO", max, [mmio & !0xf, good[1], good[2]]),
        ("an available ring in MMIO", max, [good[0], mmio, good[2]]),
        ("a used ring in MMIO", max, [good[0], good[1], mmio]),
        (
            "a table across the end of memory",
            max,
            [RAM - 16, good[1], good[2]],
        ),
        (
            "an available ring across the end of memory",
            max,
            [good[0], RAM - 4, good[2]],
        ),
        (
            "a used ring across the end of memory",
            max,
            [good[0], good[1], RAM - 8],
        ),
        (
            "a table across the end of addresses",
            max,
            [!0xf, good[1], good[2]],
        ),
    ];
    let mut outcomes = Vec::new();
    for (case, size, rings) in cases {
        driver.negotiate(u64::MAX);
        driver.write_queue(queue, *size, *rings);
        driver.driver_ok();
        driver.force_kick(queue);
        let broken = driver.needs_reset();
        assert!(broken, "{case}: queue {queue} was taken");
        outcomes.push(Outcome {
            queue: Some(queue),
            case,
            must_break: true,
            broken,
        });
        starts_again(driver, case);
    }
    rings_upon_each_other(driver, queue);
    outcomes
}

/// All three parts at one place: the device writes what it reads.
fn rings_upon_each_other(driver: &mut MockDriver, queue: u16) {
    driver.negotiate(u64::MAX);
    driver.write_common(reg::QUEUE_SELECT, &queue.to_le_bytes());
    let size = driver.read_common(reg::QUEUE_SIZE);
    driver.write_queue(queue, size, [0x10_0000; 3]);
    driver.driver_ok();
    for _ in 0..10 {
        driver.force_kick(queue);
    }
    starts_again(driver, "rings upon each other");
}

/// What a driver has set up stays as it is after DRIVER_OK.
pub(super) fn after_driver_ok(driver: &mut MockDriver) {
    driver.start(u64::MAX);
    let accepted = driver.accepted();
    for queue in 0..driver.num_queues().min(4) {
        driver.write_common(reg::QUEUE_SELECT, &queue.to_le_bytes());
        let before = queue_registers(driver);
        driver.write_queue(queue, 1, [0xdead_0000; 3]);
        driver.write_common(reg::QUEUE_ENABLE, &0_u16.to_le_bytes());
        assert_eq!(queue_registers(driver), before, "queue {queue} has changed");
    }
    driver.accept(0);
    for select in 0..2_u32 {
        driver.write_common(reg::DRIVER_FEATURE_SELECT, &select.to_le_bytes());
        let half: u32 = driver.read_common(reg::DRIVER_FEATURE);
        assert_eq!(half, (accepted >> (32 * select)) as u32, "features changed");
    }
    driver.write_common(reg::QUEUE_SELECT, &0xffff_u16.to_le_bytes());
    assert_eq!(queue_registers(driver)[0], 0, "there is a queue 65535");
    assert!(!driver.needs_reset());
    starts_again(driver, "changes after DRIVER_OK");
}

fn queue_registers(driver: &MockDriver) -> [u32; 8] {
    let wide = |at| driver.read_common::<u32>(at);
    [
        driver.read_common::<u16>(reg::QUEUE_SIZE).into(),
        driver.read_common::<u16>(reg::QUEUE_ENABLE).into(),
        wide(reg::QUEUE_DESC),
        wide(reg::QUEUE_DESC + 4),
        wide(reg::QUEUE_DRIVER),
        wide(reg::QUEUE_DRIVER + 4),
        wide(reg::QUEUE_DEVICE),
        wide(reg::QUEUE_DEVICE + 4),
    ]
}

/// Steps of the initialisation left out or mixed up (virtio 1.2, 3.1).
pub(super) fn status(driver: &mut MockDriver) {
    driver.reset();
    driver.write_status(reg::DRIVER_OK);
    assert_eq!(
        driver.status() & reg::DRIVER_OK,
        0,
        "ready without features"
    );
    driver.reset();
    driver.accept(u64::MAX);
    assert!(!driver.features_ok(), "features that are not offered");
    driver.reset();
    driver.accept(driver.offered() & !features::VERSION_1);
    assert!(!driver.features_ok(), "a driver of version 0.9");
    for status in 0..=u8::MAX {
        driver.write_status(status);
        driver.write_status(!status);
    }
    starts_again(driver, "every status");
}

/// Reads and writes of every width all over the BAR and configuration space.
pub(super) fn config_space(driver: &mut MockDriver) {
    driver.start(u64::MAX);
    let mut numbers = Numbers::new(3);
    let base = driver.notify_address(0) & !0x7fff;
    for offset in (0..0x4100).step_by(3) {
        let width = 1 << (numbers.next() % 4);
        driver.read(base + offset, &mut vec![0; width]);
    }
    let mut numbers = Numbers::new(5);
    for _ in 0..2000 {
        let offset = 0x1000 + numbers.next() % 0x1000;
        let width = 1 << (numbers.next() % 4);
        driver.write(base + offset, &numbers.next().to_le_bytes()[..width]);
    }
    starts_again(driver, "accesses all over the BAR");
}

/// Kicks before DRIVER_OK, and of queues that are not there.
pub(super) fn kicks(driver: &mut MockDriver) {
    driver.negotiate(u64::MAX);
    for queue in [0, 1, 2, 1000] {
        driver.force_kick(queue);
    }
    for queue in 0..driver.num_queues() {
        driver.set_up_queue(queue, None);
        driver.force_kick(queue);
    }
    driver.driver_ok();
    driver.force_kick(1000);
    assert!(!driver.needs_reset());
    starts_again(driver, "early kicks");
}

/// Resets at once after requests were made, of whatever kind.
pub(super) fn resets_in_flight(driver: &mut MockDriver) {
    for round in 0..30_u32 {
        driver.start(u64::MAX);
        for queue in 0..driver.num_queues().min(4) {
            for _ in 0..driver.queue(queue).size().min(16) / 4 {
                driver.add(queue, &[&round.to_le_bytes(), &[0; 64]], &[4096, 1]);
            }
            driver.force_kick(queue);
        }
        if round % 3 == 0 {
            std::thread::sleep(std::time::Duration::from_micros(u64::from(round) * 20));
        }
        driver.reset();
        assert!(driver.binder().addresses().is_empty(), "an ioeventfd stays");
    }
}
