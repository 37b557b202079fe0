//! What the host can not do reaches the guest, and the log names the file and the offset.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use common::guest::{DISCARD, Guest, IOERR, OK, range};
use strata_block::{BlockOptions, Disk, ErrorPolicy, Failure, Operation};
use strata_qcow2::storage::MemoryStorage;
use strata_qcow2::test_utils::{Fault, FaultDisk, Faults};
use strata_qcow2::{CreateOptions, Image, Node, OpenOptions, RawDisk, Storage};

static LOG: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LOG.lock().unwrap().push(record.args().to_string());
    }

    fn flush(&self) {}
}

/// Whether a message with all of `parts` was logged.
fn logged(parts: &[&str]) -> bool {
    let log = LOG.lock().unwrap();
    log.iter()
        .any(|line| parts.iter().all(|part| line.contains(part)))
}

fn start_log() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        log::set_logger(&Log).unwrap();
        log::set_max_level(log::LevelFilter::Trace);
    });
}

/// A disk whose descriptor is that of a file which the kernel fails on.
struct Special(File);

impl Storage for Special {
    fn read_vectored_at(&self, _: &mut [IoSliceMut<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn write_vectored_at(&self, _: &[IoSlice<'_>], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(1 << 20)
    }

    fn set_len(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

fn raw(storage: Arc<dyn Storage>, name: &str) -> Disk {
    start_log();
    let node = Node::Raw(RawDisk::new(storage).unwrap());
    Disk::from_node(Arc::new(node), name, false).unwrap()
}

fn special(path: &str) -> Disk {
    let file = File::options().read(true).write(true).open(path).unwrap();
    raw(Arc::new(Special(file)), path)
}

type Heard = Arc<Mutex<Vec<Failure>>>;

/// Options that hear of failures.
fn hearing(policy: ErrorPolicy) -> (BlockOptions, Heard) {
    let heard = Heard::default();
    let tell = Arc::clone(&heard);
    let options = BlockOptions {
        read_errors: policy,
        write_errors: policy,
        on_failure: Some(Arc::new(move |failure| {
            tell.lock().unwrap().push(failure.clone());
        })),
        ..BlockOptions::default()
    };
    (options, heard)
}

#[test]
fn an_unreadable_file_is_an_error_to_the_guest() {
    // The kernel answers EIO for an address of the process that is not mapped.
    let (options, heard) = hearing(ErrorPolicy::Report);
    let mut guest = Guest::new(special("/proc/self/mem"), options);
    assert_eq!(guest.read(5, 512), Err(IOERR));
    assert_eq!(guest.write(5, &[1; 512]), IOERR);
    assert!(logged(&[
        "cannot read 512 bytes",
        "0xa00",
        "/proc/self/mem",
        "os error 5"
    ]));
    let heard = heard.lock().unwrap();
    let operations: Vec<_> = heard.iter().map(|f| f.operation).collect();
    // Once each: nothing is tried again.
    assert_eq!(operations, [Operation::Read, Operation::Write]);
    assert!(
        heard
            .iter()
            .all(|f| !f.no_space && f.policy == ErrorPolicy::Report)
    );
    let stats = guest.control.stats();
    assert_eq!((stats.read.failed, stats.write.failed), (1, 1));
    assert_eq!((stats.read.requests, stats.write.requests), (0, 0));
}

/// A storage knows whether an earlier flush has lost something, and a ring does not.
#[test]
fn what_the_page_cache_has_is_flushed_by_the_storage() {
    // The kernel can not flush this file, and the storage says that there is nothing to do.
    let mut guest = Guest::new(special("/proc/self/mem"), BlockOptions::default());
    assert_eq!(guest.flush(), OK);
}

#[test]
fn a_full_file_system_is_told_as_one() {
    let (options, heard) = hearing(ErrorPolicy::Report);
    let mut guest = Guest::new(special("/dev/full"), options);
    assert_eq!(guest.write(8, &[1; 4096]), IOERR);
    assert!(logged(&[
        "cannot write 4096 bytes",
        "0x1000",
        "/dev/full",
        "os error 28"
    ]));
    assert!(heard.lock().unwrap()[0].no_space);
}

#[test]
fn errors_may_be_ignored() {
    let (options, heard) = hearing(ErrorPolicy::Ignore);
    let mut guest = Guest::new(special("/dev/full"), options);
    assert_eq!(guest.write(0, &[1; 512]), OK);
    assert_eq!(heard.lock().unwrap()[0].policy, ErrorPolicy::Ignore);
    assert_eq!(guest.control.stats().write.failed, 1);
}

/// A qcow2 image on a disk that fails when told to.
fn image() -> (Disk, Arc<Faults>) {
    start_log();
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::default());
    let options = CreateOptions {
        size: 1 << 20,
        ..CreateOptions::default()
    };
    options.create(&memory).unwrap();
    let faults = Arc::new(Faults::default());
    let disk: Arc<dyn Storage> = Arc::new(FaultDisk::new(memory, &faults));
    let options = OpenOptions {
        writable: true,
        ..OpenOptions::default()
    };
    let image = Image::open(disk, options).unwrap();
    let node = Arc::new(Node::Qcow2(image));
    (Disk::from_node(node, "image", false).unwrap(), faults)
}

#[test]
fn the_slow_path_tells_of_errors_too() {
    let (disk, faults) = image();
    let (options, heard) = hearing(ErrorPolicy::Report);
    let mut guest = Guest::new(disk, options);
    assert_eq!(guest.write(0, &[1; 512]), OK);
    faults.arm(Fault::NoSpace, 0, true);
    assert_eq!(guest.write(1000, &[1; 512]), IOERR);
    assert_eq!(guest.flush(), IOERR);
    assert!(faults.heal() >= 2);
    assert!(heard.lock().unwrap().iter().all(|f| f.no_space));
    faults.arm(Fault::Io, 0, true);
    assert_eq!(guest.read(0, 512), Err(IOERR));
    faults.heal();
    // The image goes on.
    assert_eq!(guest.read(0, 512), Ok(vec![1; 512]));
    assert_eq!(guest.write(1000, &[2; 512]), OK);
    assert_eq!(guest.flush(), OK);
    assert_eq!(guest.request(DISCARD, 0, &range(0, 128, 0)), OK);
}

fn wait_for(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_stopped_request_is_tried_again_when_the_owner_says_so() {
    use common::guest::{IN, OUT, header};
    let (disk, faults) = image();
    let (options, heard) = hearing(ErrorPolicy::Stop);
    let mut guest = Guest::new(disk, options);
    faults.arm(Fault::NoSpace, 0, true);
    guest.driver.add(0, &[&header(OUT, 0), &[9; 4096]], &[1]);
    guest.driver.kick(0);
    wait_for("it fails", || guest.control.parked() == 1);
    // Nothing is taken up before it.
    guest.driver.add(0, &[&header(IN, 8)], &[4096, 1]);
    guest.driver.kick(0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(guest.driver.queue(0).used_idx(), 0);
    // It fails again, and is told again.
    guest.control.retry();
    wait_for("it fails again", || heard.lock().unwrap().len() == 2);
    wait_for("it waits again", || guest.control.parked() == 1);
    // The machine is paused and goes on.
    guest.driver.device().pause().unwrap();
    guest.driver.device().resume().unwrap();
    assert_eq!(guest.control.parked(), 1);
    faults.heal();
    guest.control.retry();
    for _ in 0..2 {
        let used = guest.driver.wait_used(0);
        assert_eq!(used.written.last(), Some(&OK));
    }
    assert_eq!(guest.control.parked(), 0);
    assert_eq!(guest.read(0, 4096), Ok(vec![9; 4096]));
    assert!(heard.lock().unwrap().iter().all(|f| f.no_space));
}

#[test]
fn a_reset_forgets_stopped_requests() {
    use common::guest::{GET_ID, OUT, header};
    let (options, _) = hearing(ErrorPolicy::Stop);
    let mut guest = Guest::new(special("/dev/full"), options);
    guest.driver.add(0, &[&header(OUT, 0), &[9; 512]], &[1]);
    guest.driver.kick(0);
    wait_for("it fails", || guest.control.parked() == 1);
    guest.driver.reset();
    assert_eq!(guest.control.parked(), 0);
    guest.driver.start(u64::MAX);
    let used = guest.driver.request(0, &[&header(GET_ID, 0)], &[20, 1]);
    assert_eq!(used.written[20], OK);
}
