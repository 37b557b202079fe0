//! The fuzz target's body, which the stored inputs share.

use std::os::unix::net::UnixStream;

use strata_console::{Console, Port};
use strata_virtio::test_utils::{MockDriver, fuzz_queues};

pub(crate) fn run(input: &[u8]) {
    let (host, end) = UnixStream::pair().unwrap();
    let (_other, other_end) = UnixStream::pair().unwrap();
    end.set_nonblocking(true).unwrap();
    other_end.set_nonblocking(true).unwrap();
    let ports = vec![Port::console(end), Port::named("agent", other_end)];
    let mut driver = MockDriver::new(Box::new(Console::new(ports).unwrap()));
    // Nobody reads: writes are taken, whatever was written before.
    drop(host);
    fuzz_queues(&mut driver, input);
    driver.start(u64::MAX);
    driver.request(1, &[b"alive"], &[]);
}
