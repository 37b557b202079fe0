//! A program of the host's calls one in a guest, which answers.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use strata_virtio::test_utils::MockDriver;
use strata_vsock::{Header, Vsock, op};

/// The guest's side: waits for a packet of the device's.
fn hear(driver: &mut MockDriver) -> Result<(Header, Vec<u8>), Box<dyn Error>> {
    let used = driver.request(0, &[], &[44, 4096]);
    let header = used.written.first_chunk().ok_or("no header")?;
    let bytes = used.written[44..used.len as usize].to_vec();
    Ok((Header::from_bytes(header), bytes))
}

/// The guest's answer to a packet.
fn say(driver: &mut MockDriver, to: &Header, op: u16, bytes: &[u8]) {
    let header = Header {
        src_cid: to.dst_cid,
        dst_cid: to.src_cid,
        src_port: to.dst_port,
        dst_port: to.src_port,
        len: bytes.len() as u32,
        kind: 1,
        op,
        buf_alloc: 4096,
        ..Header::default()
    };
    let header = header.to_bytes();
    let parts = [&header[..], bytes];
    let count = if bytes.is_empty() { 1 } else { 2 };
    driver.request(1, &parts[..count], &[]);
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::temp_dir().join(format!("dial-{}", std::process::id()));
    let mut driver = MockDriver::new(Box::new(Vsock::new(3, &path)?));
    driver.start(u64::MAX);

    let mut program = UnixStream::connect(&path)?;
    program.write_all(b"CONNECT 1024\nhello")?;
    let (request, _) = hear(&mut driver)?;
    println!("the guest is asked for port {}", request.dst_port);
    say(&mut driver, &request, op::RESPONSE, &[]);
    let (_, bytes) = hear(&mut driver)?;
    say(&mut driver, &request, op::RW, &bytes.to_ascii_uppercase());
    let mut answer = vec![0; format!("OK {}\nHELLO", request.src_port).len()];
    program.read_exact(&mut answer)?;
    println!("the program hears: {}", String::from_utf8_lossy(&answer));
    Ok(())
}
