//! Runs the programs that the host asks for.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::protocol::{Frame, Kind, MAX_PAYLOAD, PORT, Spawn};
use crate::sys;

/// How long output may still come after its program has ended: a background job may hold the pipe
/// for ever.
const LAST_OUTPUT: Duration = Duration::from_millis(200);

type Port = Arc<Mutex<File>>;

struct Process {
    group: i32,
    input: Sender<Vec<u8>>,
}

/// Serves until the host closes the port.
pub(crate) fn serve() -> io::Result<()> {
    let mut requests = OpenOptions::new().read(true).write(true).open(port()?)?;
    let port: Port = Arc::new(Mutex::new(requests.try_clone()?));
    send(&port, Frame::new(Kind::Ready, 0, []))?;
    let mut processes: HashMap<u32, Process> = HashMap::new();
    while let Some(frame) = Frame::read(&mut requests)? {
        match frame.kind {
            Kind::Spawn => match start(&port, frame.id, &frame.payload) {
                Ok(process) => {
                    processes.insert(frame.id, process);
                }
                Err(error) => {
                    let text = format!("lab: cannot start it in level 1: {error}\n");
                    send(&port, Frame::new(Kind::Stderr, frame.id, text))?;
                    send(
                        &port,
                        Frame::new(Kind::Exit, frame.id, 127i32.to_le_bytes()),
                    )?;
                }
            },
            Kind::Stdin => {
                if let Some(process) = processes.get(&frame.id) {
                    // A program that has closed its input does not want the rest.
                    let _ = process.input.send(frame.payload);
                }
            }
            Kind::Signal => {
                if let (Some(process), Some(signal)) =
                    (processes.get(&frame.id), frame.payload.first())
                {
                    // The group may have ended.
                    let _ = sys::signal(-process.group, *signal);
                }
            }
            Kind::Stdout | Kind::Stderr | Kind::Exit | Kind::Ready => {}
        }
    }
    Ok(())
}

/// The device file of the port, found by its name.
fn port() -> io::Result<std::path::PathBuf> {
    for entry in fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("name"))?.trim_end() == PORT {
            return Ok(std::path::Path::new("/dev").join(entry.file_name()));
        }
    }
    Err(io::Error::other(
        "no virtio-serial port for the host's requests",
    ))
}

fn send(port: &Port, frame: Frame) -> io::Result<()> {
    let mut port = port
        .lock()
        .map_err(|_| io::Error::other("a thread has died"))?;
    frame.write(&mut *port)
}

fn start(port: &Port, id: u32, payload: &[u8]) -> io::Result<Process> {
    let spawn = Spawn::decode(payload).ok_or_else(|| io::Error::other("not a command"))?;
    let [program, args @ ..] = spawn.argv.as_slice() else {
        return Err(io::Error::other("an empty command"));
    };
    let (input, queue) = mpsc::channel();
    let (mut child, outputs) = match spawn.terminal {
        Some((rows, columns)) => {
            let (master, path) = sys::open_terminal(rows, columns)?;
            let line = OpenOptions::new().read(true).write(true).open(path)?;
            // `setsid -c` makes standard input the new session's controlling terminal.
            let child = Command::new("setsid")
                .arg("-c")
                .args(&spawn.argv)
                .stdin(line.try_clone()?)
                .stdout(line.try_clone()?)
                .stderr(line)
                .spawn()?;
            feed(master.try_clone()?, queue);
            (child, vec![forward(port, id, Kind::Stdout, master)])
        }
        None => {
            let mut child = Command::new(program)
                .args(args)
                .process_group(0)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut outputs = Vec::new();
            if let Some(stdin) = child.stdin.take() {
                feed(stdin, queue);
            }
            if let Some(stdout) = child.stdout.take() {
                outputs.push(forward(port, id, Kind::Stdout, stdout));
            }
            if let Some(stderr) = child.stderr.take() {
                outputs.push(forward(port, id, Kind::Stderr, stderr));
            }
            (child, outputs)
        }
    };
    let group = child.id().try_into().map_err(io::Error::other)?;
    let port = Arc::clone(port);
    thread::spawn(move || {
        let code = wait(&mut child);
        for output in outputs {
            // An error means that the output has ended, or goes on too long.
            let _ = output.recv_timeout(LAST_OUTPUT);
        }
        send(&port, Frame::new(Kind::Exit, id, code.to_le_bytes()))
    });
    Ok(Process { group, input })
}

/// The exit code as a shell gives it.
fn wait(child: &mut Child) -> i32 {
    match child.wait() {
        Ok(status) => status
            .code()
            .or(status.signal().map(|n| 128 + n))
            .unwrap_or(127),
        Err(_) => 127,
    }
}

/// Writes what comes through the queue to the program's input, until an empty piece.
fn feed(mut input: impl Write + Send + 'static, queue: Receiver<Vec<u8>>) {
    thread::spawn(move || {
        for bytes in queue {
            if bytes.is_empty() || input.write_all(&bytes).is_err() {
                break;
            }
        }
    });
}

/// Sends the program's output to the host. The receiver hears when all of it is sent.
fn forward(
    port: &Port,
    id: u32,
    kind: Kind,
    mut output: impl Read + Send + 'static,
) -> Receiver<()> {
    let (done, receiver) = mpsc::channel();
    let port = Arc::clone(port);
    thread::spawn(move || {
        let mut buffer = vec![0; MAX_PAYLOAD];
        while let Ok(count @ 1..) = output.read(&mut buffer) {
            if send(&port, Frame::new(kind, id, &buffer[..count])).is_err() {
                break;
            }
        }
        let _ = done.send(());
    });
    receiver
}
