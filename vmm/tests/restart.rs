//! Machines that start again in place: by their guests, and by `system_reset`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use common::{Guest, Payload, Qmp, finish, wait};
use serde_json::json;

/// A guest that runs, with its console and its control socket. It ends with its test.
struct Machine {
    child: Option<Child>,
    client: Qmp,
}

impl Machine {
    fn start(guest: &Guest, args: &[&str]) -> Self {
        let path = guest.path("qmp");
        let mut command = guest.run(args);
        command.arg("--qmp").arg(format!("unix={}", path.display()));
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = Some(command.spawn().unwrap());
        let client = Qmp::connect(&path);
        Self { child, client }
    }

    /// Reads the console until `text` has come, and gives all of it.
    fn wait_for(&mut self, text: &str) -> String {
        let console = self.child.as_mut().unwrap().stdout.as_mut().unwrap();
        let mut seen = String::new();
        let mut byte = [0];
        while !seen.contains(text) {
            assert_eq!(console.read(&mut byte).unwrap(), 1, "only {seen:?}");
            seen.push(byte[0].into());
        }
        seen
    }

    fn type_in(&mut self, text: &str) {
        let input = self.child.as_mut().unwrap().stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    fn code(mut self) -> Option<i32> {
        wait(self.child.take().unwrap()).status.code()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const BY_CLIENT: &str = "host-qmp-system-reset";

#[test]
fn a_client_s_reset_starts_the_guest_again() {
    for irqchip in ["kernel", "split"] {
        for (payload, cpus) in [(Payload::Spin, "3"), (Payload::Halt, "1")] {
            let guest = Guest::new(payload);
            let disk = guest.path("disk");
            std::fs::File::create(&disk)
                .unwrap()
                .set_len(1 << 20)
                .unwrap();
            let args = ["--irqchip", irqchip, "--cpus", cpus, "--rng", "--disk"];
            let args = [&args[..], &[disk.to_str().unwrap()]].concat();
            let mut machine = Machine::start(&guest, &args);
            for _ in 0..5 {
                machine.wait_for("ready");
                machine.client.run("system_reset", json!({}));
                let data = machine.client.wait_for("RESET");
                assert_eq!(data, json!({ "guest": false, "reason": BY_CLIENT }));
            }
            machine.wait_for("ready");
            let status = machine.client.run("query-status", json!({}));
            assert_eq!(status["status"], "running");
            machine.client.run("quit", json!({}));
            assert_eq!(machine.code(), Some(0));
        }
    }
}

#[test]
fn a_paused_machine_is_reset_and_stays_paused() {
    let guest = Guest::new(Payload::Echo);
    let mut machine = Machine::start(&guest, &[]);
    machine.wait_for("ready\r\n");
    machine.client.run("stop", json!({}));
    machine.client.run("system_reset", json!({}));
    machine.client.wait_for("RESET");
    let status = machine.client.run("query-status", json!({}));
    assert_eq!(status["status"], "paused");
    machine.client.run("cont", json!({}));
    assert_eq!(machine.wait_for("ready\r\n"), "ready\r\n");
    // Its console works on.
    machine.type_in("abc");
    machine.wait_for("abc");
    machine.type_in("q");
    assert_eq!(machine.code(), Some(0));
}

#[test]
fn interrupts_reach_a_guest_that_was_reset() {
    for irqchip in ["kernel", "split"] {
        let guest = Guest::new(Payload::Button);
        let mut machine = Machine::start(&guest, &["--irqchip", irqchip]);
        for _ in 0..3 {
            machine.wait_for("listening");
            machine.client.run("system_reset", json!({}));
        }
        machine.wait_for("listening");
        machine.client.run("system_powerdown", json!({}));
        machine.wait_for("pressed");
        assert_eq!(machine.code(), Some(0), "{irqchip}");
    }
}

#[test]
fn a_guest_s_reboot_starts_it_again_where_that_is_wanted() {
    for irqchip in ["kernel", "split"] {
        for payload in [Payload::Reset, Payload::ResetVector, Payload::Remember] {
            let guest = Guest::new(payload);
            let args = ["--irqchip", irqchip, "--on-reboot", "reset"];
            let mut machine = Machine::start(&guest, &args);
            for _ in 0..5 {
                let data = machine.client.wait_for("RESET");
                assert_eq!(data, json!({ "guest": true, "reason": "guest-reset" }));
            }
            let mut seen = String::new();
            for _ in 0..5 {
                seen += &machine.wait_for("ready");
            }
            assert!(!seen.contains("used"), "memory is as it was: {seen}");
            machine.client.run("quit", json!({}));
            assert_eq!(machine.code(), Some(0), "{payload:?}");
        }
    }
}

#[test]
fn other_ends_stay_ends() {
    for (payload, code) in [(Payload::PowerOff, 0), (Payload::TripleFault, 4)] {
        let output = finish(Guest::new(payload).run(&["--on-reboot", "reset"]));
        assert_eq!(output.status.code(), Some(code), "{payload:?}");
    }
    for args in [&[][..], &["--on-reboot", "shutdown"]] {
        let output = finish(Guest::new(Payload::Reset).run(args));
        assert_eq!(output.status.code(), Some(3), "{args:?}");
    }
}
