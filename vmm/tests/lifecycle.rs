//! How a machine ends, as its exit code, its output and its terminal say it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::{Guest, PATIENCE, Payload, Pty, finish, wait};

fn piped(mut command: Command) -> Child {
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads `child`'s output until `text` has come.
fn until(child: &mut Child, text: &str) {
    let out = child.stdout.as_mut().unwrap();
    let mut seen = String::new();
    let mut byte = [0];
    while !seen.contains(text) {
        assert_eq!(out.read(&mut byte).unwrap(), 1, "only {seen:?}");
        seen.push(byte[0].into());
    }
}

fn signal(child: &Child, signal: i32) {
    // SAFETY: it only sends a signal, to a process that is ours and not yet waited for.
    assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
}

#[test]
fn each_way_to_end_has_its_exit_code() {
    for (payload, code) in [
        (Payload::PowerOff, 0),
        (Payload::Reset, 3),
        (Payload::ResetVector, 3),
        (Payload::TripleFault, 4),
    ] {
        for irqchip in ["kernel", "split"] {
            let output = finish(Guest::new(payload).run(&["--irqchip", irqchip]));
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{payload:?}: {stderr}");
            assert_eq!(output.stdout, b"ready\r\n", "{payload:?}");
        }
    }
}

#[test]
fn a_triple_fault_is_reported_with_registers() {
    let output = finish(Guest::new(Payload::TripleFault).run(&[]));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        stderr.contains("triple fault") && stderr.contains("rip"),
        "{stderr}"
    );
    assert!(
        stderr.contains("0f 0b"),
        "the instruction is missing: {stderr}"
    );
}

#[test]
fn the_power_button_is_pressed_by_the_first_signal() {
    for (number, irqchip) in [(libc::SIGTERM, "kernel"), (libc::SIGINT, "split")] {
        let guest = Guest::new(Payload::Button);
        let mut child = piped(guest.run(&["--irqchip", irqchip]));
        until(&mut child, "listening");
        signal(&child, number);
        let output = wait(child);
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stdout, b"\r\npressed\r\n");
    }
}

#[test]
fn the_second_signal_ends_a_guest_that_does_not_listen() {
    for payload in [Payload::Spin, Payload::Halt] {
        let guest = Guest::new(payload);
        for cpus in ["1", "3"] {
            let mut child = piped(guest.run(&["--cpus", cpus]));
            until(&mut child, "ready");
            signal(&child, libc::SIGTERM);
            signal(&child, libc::SIGINT);
            assert_eq!(wait(child).status.code(), Some(143), "{payload:?}");
        }
    }
}

#[test]
fn a_hang_up_ends_the_machine() {
    let guest = Guest::new(Payload::Halt);
    let mut child = piped(guest.run(&[]));
    until(&mut child, "ready");
    signal(&child, libc::SIGHUP);
    assert_eq!(wait(child).status.code(), Some(143));
}

#[test]
fn a_halted_guest_costs_no_time() {
    let guest = Guest::new(Payload::Halt);
    let mut child = piped(guest.run(&[]));
    until(&mut child, "ready");
    let before = cpu_ticks(&child);
    std::thread::sleep(std::time::Duration::from_millis(500));
    let spent = cpu_ticks(&child) - before;
    signal(&child, libc::SIGHUP);
    wait(child);
    // Ticks are of 10 ms: one for the tail of what went on before.
    assert!(spent <= 2, "{spent} ticks in half a second of rest");
}

/// User and system time of a process, in ticks (proc(5), /proc/pid/stat).
fn cpu_ticks(child: &Child) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let fields: Vec<&str> = stat[stat.rfind(')').unwrap()..].split(' ').collect();
    fields[12].parse::<u64>().unwrap() + fields[13].parse::<u64>().unwrap()
}

#[test]
fn wild_accesses_do_no_harm() {
    for irqchip in ["kernel", "split"] {
        let output = finish(Guest::new(Payload::Wild).run(&["--irqchip", irqchip]));
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(output.stdout, b"ready\r\nunharmed\r\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn piped_input_reaches_the_guest_whole() {
    let guest = Guest::new(Payload::Echo);
    let mut command = guest.run(&[]);
    command.stdin(Stdio::piped());
    let mut child = piped(command);
    until(&mut child, "ready\r\n");
    // Many times the 64 bytes that the port holds.
    let text: Vec<u8> = (0..3000)
        .map(|i| b'A' + (i % 16) as u8)
        .chain(*b"q")
        .collect();
    child.stdin.take().unwrap().write_all(&text).unwrap();
    let output = wait(child);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, text);
}

#[test]
fn a_file_as_input_reaches_the_guest_whole() {
    let guest = Guest::new(Payload::Echo);
    let text: Vec<u8> = (0..9000)
        .map(|i| b'A' + (i % 16) as u8)
        .chain(*b"q")
        .collect();
    std::fs::write(guest.path("input"), &text).unwrap();
    let mut command = guest.run(&[]);
    command.stdin(std::fs::File::open(guest.path("input")).unwrap());
    let output = finish(command);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, [b"ready\r\n", &text[..]].concat());
}

#[test]
fn output_goes_to_a_file() {
    let guest = Guest::new(Payload::PowerOff);
    let serial = format!("file={}", guest.path("log").display());
    let output = finish(guest.run(&["--serial", &serial]));
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), b"".as_slice())
    );
    assert_eq!(std::fs::read(guest.path("log")).unwrap(), b"ready\r\n");
}

#[test]
fn a_full_disk_does_not_stop_the_guest() {
    let output = finish(Guest::new(Payload::PowerOff).run(&["--serial", "file=/dev/full"]));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_socket_serves_one_client_after_the_other() {
    let guest = Guest::new(Payload::Echo);
    let path = guest.path("console");
    let serial = format!("unix={}", path.display());
    let child = piped(guest.run(&["--serial", &serial]));
    let deadline = Instant::now() + PATIENCE;
    let connect = || loop {
        if let Ok(stream) = UnixStream::connect(&path) {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            break stream;
        }
        assert!(Instant::now() < deadline, "no socket");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    for text in [b"first", b"again"] {
        let mut client = connect();
        let mut echo = [0; 5];
        client.write_all(text).unwrap();
        // The guest may still be saying `ready`.
        while &echo != text {
            echo.rotate_left(1);
            client.read_exact(&mut echo[4..]).unwrap();
        }
    }
    connect().write_all(b"q").unwrap();
    assert_eq!(wait(child).status.code(), Some(0));
    assert!(!path.exists(), "the socket was left behind");
}

#[test]
fn ctrl_a_x_leaves_and_gives_the_terminal_back() {
    let guest = Guest::new(Payload::Spin);
    let mut pty = Pty::new();
    let before = pty.settings();
    let child = pty.spawn(guest.run(&[]));
    pty.expect("ready");
    assert_ne!(pty.settings(), before, "the terminal is not in raw mode");
    pty.write(b"\x01h");
    pty.expect("Ctrl-A X");
    pty.write(b"\x01x");
    assert_eq!(wait(child).status.code(), Some(0));
    assert_eq!(pty.settings(), before);
}

#[test]
fn the_terminal_is_given_back_on_every_way_out() {
    for (payload, number) in [
        (Payload::Echo, None),
        (Payload::TripleFault, None),
        (Payload::Spin, Some(libc::SIGTERM)),
        (Payload::Spin, Some(libc::SIGHUP)),
        (Payload::Spin, Some(libc::SIGABRT)),
        (Payload::Spin, Some(libc::SIGSEGV)),
        (Payload::Spin, Some(libc::SIGQUIT)),
    ] {
        let guest = Guest::new(payload);
        let mut pty = Pty::new();
        let before = pty.settings();
        let child = pty.spawn(guest.run(&[]));
        pty.expect("ready");
        match number {
            None => pty.write(b"q"),
            Some(number) => {
                signal(&child, number);
                // Two of the same kind at once would be one.
                if number == libc::SIGTERM {
                    signal(&child, libc::SIGINT);
                }
            }
        }
        wait(child);
        assert_eq!(pty.settings(), before, "{payload:?} {number:?}");
    }
}

#[test]
fn a_stopped_and_continued_console_is_raw_again() {
    let guest = Guest::new(Payload::Echo);
    let mut pty = Pty::new();
    let child = pty.spawn(guest.run(&[]));
    pty.expect("ready");
    let raw = pty.settings();
    signal(&child, libc::SIGSTOP);
    pty.set_cooked();
    signal(&child, libc::SIGCONT);
    signal(&child, libc::SIGWINCH);
    let deadline = Instant::now() + PATIENCE;
    while pty.settings() != raw {
        assert!(Instant::now() < deadline, "the terminal stays cooked");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    pty.write(b"hello q");
    pty.expect("hello q");
    assert_eq!(wait(child).status.code(), Some(0));
}
