//! A stock Linux guest, run by `strata` in level 1.

use std::thread::sleep;
use std::time::Duration;

use strata_lab::{CMDLINE, Output, Process};

use crate::level1::{Level1, PATIENCE, ok};

/// What the guest's shell prints when it waits for a command.
const PROMPT: &str = "guest# ";

/// What is given to `strata run` unless a test gives its own. The ELF kernel starts at once in a
/// level 1 that has nothing cached yet.
const DEFAULTS: [(&str, &str); 3] = [
    ("--kernel", "/lab/6.1/vmlinux"),
    ("--initrd", "/lab/6.1/initrd"),
    ("--cmdline", CMDLINE),
];

/// What an idle guest uses at most in half a second.
const IDLE: Duration = Duration::from_millis(50);

/// How long a guest may take to echo what is typed.
const PROBE_TIME: Duration = Duration::from_secs(20);

/// A guest whose console the test holds. It ends with its level 1.
pub struct Guest<'a> {
    level1: &'a Level1,
    process: Process,
}

impl<'a> Guest<'a> {
    /// Starts `strata run` with `args`, and the lab's 6.1 kernel, its initramfs and command line
    /// where `args` say nothing of them.
    #[track_caller]
    pub fn start(level1: &'a Level1, args: &[&str]) -> Self {
        let mut argv = vec!["strata", "run"];
        for (option, value) in DEFAULTS {
            if !args.contains(&option) && !args.contains(&"--config") {
                argv.extend([option, value]);
            }
        }
        argv.extend(args);
        Self::attach(level1, level1.spawn(&argv, None))
    }

    /// Takes a process whose input and output are a guest's console.
    pub fn attach(level1: &'a Level1, process: Process) -> Self {
        Self { level1, process }
    }

    /// Waits for the shell.
    #[track_caller]
    pub fn login(mut self) -> Self {
        self.wait_for(PROMPT);
        self
    }

    /// Waits until the console says `text`, and gives all that it said up to there.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let said = self.process.wait_for(text, PATIENCE);
        said.unwrap_or_else(|error| {
            eprintln!("{error}");
            panic!("{}", self.vital_signs())
        })
    }

    /// What tells a guest that hangs by the emulator's fault (tools/lab/README.md) from one that
    /// waits for a device: the latter echoes what is typed.
    fn vital_signs(&mut self) -> String {
        const PROBE: &str = "are you there";
        let typed = self.process.write(PROBE.as_bytes());
        let echoed = typed.and_then(|()| self.process.wait_for(PROBE, PROBE_TIME));
        let before = self.cpu_time();
        sleep(Duration::from_secs(1));
        format!(
            "the guest {} what is typed, and takes {:?} of CPU time a second",
            if echoed.is_ok() {
                "echoes"
            } else {
                "does not echo"
            },
            self.cpu_time() - before
        )
    }

    /// Types a command line.
    #[track_caller]
    pub fn type_line(&self, line: &str) {
        self.type_bytes(format!("{line}\n").as_bytes());
    }

    /// Types these keys.
    #[track_caller]
    pub fn type_bytes(&self, bytes: &[u8]) {
        ok(self.process.write(bytes));
    }

    /// What a shell command in the guest prints, its lines ended by `\n`.
    #[track_caller]
    pub fn ask(&mut self, command: &str) -> String {
        // The quotes keep the echo of what is typed from being taken for the answer.
        self.type_line(&format!("echo @''[;{command};echo @'']"));
        self.wait_for("@[\r\n");
        let answer = self.wait_for("@]\r\n");
        self.wait_for(PROMPT);
        let answer = answer.trim_end_matches("@]\r\n");
        answer.replace("\r\n", "\n").trim_end().to_owned()
    }

    /// A number that a shell command in the guest prints.
    #[track_caller]
    pub fn number(&mut self, command: &str) -> u64 {
        let text = self.ask(command);
        text.parse()
            .unwrap_or_else(|_| panic!("{command} gives no number but {text:?}"))
    }

    /// Sends a signal to `strata`, and waits until it has taken it: two that wait together are one.
    #[track_caller]
    pub fn signal(&self, number: u8) {
        ok(self.process.signal(number));
        self.level1.sh(
            "while p=$(pidof strata) && ! grep -q 'ShdPnd:\t0*$' /proc/$p/status; do \
             usleep 10000; done",
        );
    }

    /// Waits until the guest has nothing left to do, so that what its init started is ready.
    #[track_caller]
    pub fn settle(&self) {
        let mut before = self.cpu_time();
        loop {
            sleep(Duration::from_millis(500));
            let now = self.cpu_time();
            if now - before < IDLE {
                return;
            }
            before = now;
        }
    }

    /// A field of `strata`'s /proc/PID/status in level 1, for instance "Threads".
    #[track_caller]
    pub fn status(&self, field: &str) -> String {
        self.level1.sh(&format!(
            "sed -n 's/^{field}:\t*//p' /proc/$(pidof strata)/status"
        ))
    }

    /// CPU time that `strata` and its guest have used.
    #[track_caller]
    pub fn cpu_time(&self) -> Duration {
        let ticks = self
            .level1
            .number("set -- $(cat /proc/$(pidof strata)/stat); echo $((${14} + ${15}))");
        // USER_HZ is 100 on every Linux for x86-64.
        Duration::from_millis(ticks * 10)
    }

    /// Powers the guest off, and sees `strata` say so.
    #[track_caller]
    pub fn power_off(self) {
        self.type_line("poweroff -f");
        self.ends_with(0);
    }

    /// Waits for the end of `strata`, which must have this exit code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Output {
        let output = ok(self.process.wait(PATIENCE));
        assert_eq!(
            output.code,
            code,
            "strata's exit code; console: {}\nstderr: {}",
            output.stdout_text(),
            output.stderr_text()
        );
        output
    }

    /// What the guest's kernel has to say against its machine: all messages of level error or
    /// worse, and the milder ones that tell of a fault in what `strata` emulates. That the test
    /// image's modules have no signatures is none.
    #[track_caller]
    pub fn complaints(&mut self) -> String {
        self.ask(
            "dmesg -r|grep -E '^<[0-3]>|NMI rec|Uhhuh|[Ll]ost|purious|BUG:|unstable|WARN|ailed'|\
             grep -v 'module verification'",
        )
    }
}
