//! A guest that answers what it is sent.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use strata_console::{Console, Port};
use strata_virtio::test_utils::MockDriver;

fn main() -> io::Result<()> {
    let (mut host, end) = UnixStream::pair()?;
    end.set_nonblocking(true)?;
    let mut driver = MockDriver::new(Box::new(Console::new(vec![Port::console(end)])?));
    driver.start(u64::MAX);
    host.write_all(b"hello")?;
    let heard = driver.request(0, &[], &[64]);
    let heard = heard.written[..heard.len as usize].to_ascii_uppercase();
    driver.request(1, &[&heard], &[]);
    let mut answer = [0; 5];
    host.read_exact(&mut answer)?;
    println!("{}", String::from_utf8_lossy(&answer));
    Ok(())
}
