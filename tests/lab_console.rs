//! The console and the configuration of a running machine.

use std::fs;
use std::thread::sleep;
use std::time::Duration;

use strata_tests::{CMDLINE, Guest, Level1};

const SIGTERM: u8 = 15;

const RUN: &str = "strata run --kernel /lab/6.1/vmlinux --initrd /lab/6.1/initrd --cmdline";

#[test]
fn what_is_typed_is_echoed_and_taken() {
    let level1 = Level1::restore();
    let mut guest = level1.boot(&[]).login();
    guest.type_line("echo fi''sh");
    let echo = guest.wait_for("fish");
    assert!(echo.contains("echo fi''sh\r\n"), "{echo:?}");
    // More than the port's receive buffer holds, in one piece: nothing of it may be lost.
    let line = "0123456789".repeat(30);
    guest.type_line(&format!(
        "stty -echo;read x;stty echo;echo $x;echo e''nd\n{line}"
    ));
    let answer = guest.wait_for("end\r\n");
    assert!(answer.contains(&line), "{answer:?}");
    guest.power_off();
}

#[test]
fn a_terminal_is_given_back_as_it_was() {
    let level1 = Level1::restore();
    let script = format!("stty -a >before;{RUN} '{CMDLINE}';echo code=$?;stty -a >after");
    let terminal = level1.spawn(&["sh", "-c", &script], Some((24, 80)));
    let mut guest = Guest::attach(&level1, terminal).login();
    let raw = level1.sh("stty -a </dev/pts/0");
    assert!(raw.contains("-icanon") && raw.contains("-isig"), "{raw}");
    level1.sh("stty rows 50 cols 132 </dev/pts/0");
    // Ctrl-C is the guest's: it ends the guest's command, not strata.
    guest.type_line("echo be''gin;sleep 1000");
    guest.wait_for("begin\r\n");
    guest.type_bytes(b"\x03");
    assert_eq!(guest.ask("echo $((6*7))"), "42");
    guest.type_bytes(b"\x01x");
    guest.wait_for("code=0");
    guest.ends_with(0);
    level1.sh("sed -i 's/rows [0-9]*; columns [0-9]*;//' before after; cmp before after");
}

#[test]
fn a_socket_serves_one_client_after_another() {
    let level1 = Level1::restore();
    let pipe = fs::read(env!("CARGO_BIN_EXE_unix-pipe")).unwrap();
    level1.put("/bin/unix-pipe", 0o755, &pipe);
    let guest = level1.boot(&["--serial", "unix=/tmp/console"]);
    level1.sh("while ! test -S /tmp/console; do sleep 0.1; done");
    for client in ["first", "second"] {
        let process = level1.spawn(&["unix-pipe", "/tmp/console"], None);
        let console = Guest::attach(&level1, process);
        console.type_line("");
        let mut console = console.login();
        assert_eq!(
            console.ask(&format!("echo {client}|tr a-z A-Z")),
            client.to_uppercase()
        );
        // A client that pauses misses nothing: this is more than a socket holds.
        console.type_line("sleep 1;seq 1000 1999;echo e''nd");
        console.wait_for("nd\r\n");
        level1.sh("kill -STOP $(pidof unix-pipe)");
        let before = guest.cpu_time();
        while guest.cpu_time() - before < Duration::from_millis(300) {
            sleep(Duration::from_millis(100));
        }
        guest.settle();
        level1.sh("kill -CONT $(pidof unix-pipe)");
        let text = console.wait_for("end\r\n");
        let numbers = (1000..2000).map(|number| format!("{number}\r\n"));
        assert_eq!(text, numbers.collect::<String>() + "end\r\n");
        console.signal(SIGTERM);
    }
    guest.settle();
    guest.signal(SIGTERM);
    guest.ends_with(0);
    level1.sh("! test -e /tmp/console");
}

#[test]
fn a_file_takes_the_output() {
    let level1 = Level1::restore();
    let guest = level1.boot(&["--serial", "file=/tmp/log"]);
    level1.sh("while ! grep -q 'guest# ' /tmp/log; do sleep 0.2; done");
    guest.settle();
    guest.signal(SIGTERM);
    let output = guest.ends_with(0);
    assert_eq!(output.stdout_text(), "");
    let log = level1.sh("cat /tmp/log");
    assert!(
        log.contains("READY\r\n") && log.contains("Power down"),
        "{log}"
    );
}

#[test]
fn a_file_describes_a_machine_and_the_command_line_wins() {
    let level1 = Level1::restore();
    let config = format!(
        "kernel = 'vmlinux'\ninitrd = '/lab/6.1/initrd'\ncpus = 4\nmemory = '192M'\n\
         irqchip = 'split'\ncmdline = '{CMDLINE} from=file'\n"
    );
    level1.put("/vm/vm.toml", 0o644, config.as_bytes());
    // A relative path starts where the file is.
    level1.sh("ln -s /lab/6.1/vmlinux /vm/vmlinux");
    let mut guest = level1
        .boot(&["--config", "/vm/vm.toml", "--cpus", "2"])
        .login();
    assert_eq!(guest.number("nproc"), 2);
    assert!(guest.ask("cat /proc/cmdline").ends_with("from=file"));
    let total = guest.number("sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo");
    assert!(
        (140_000..=192 * 1024).contains(&total),
        "MemTotal: {total} kB"
    );
    guest.power_off();
}
