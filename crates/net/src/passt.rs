//! User networking: passt, a program that translates a guest's frames to the sockets of an ordinary
//! user. No right of root, no interface and no configuration of the host is needed.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::str::FromStr;

use crate::{Error, sys};

/// The protocol of a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port of the host that leads to one of the guest: written `tcp::2222-:22`, or with the host's
/// address `tcp:127.0.0.1:2222-:22`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Which protocol.
    pub protocol: Protocol,
    /// The host's address; all of them if there is none.
    pub address: Option<IpAddr>,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = Error;

    /// # Errors
    /// [`Error::InvalidForward`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::InvalidForward {
            text: text.chars().take(64).collect(),
            reason,
        };
        let (protocol, rest) = text
            .split_once(':')
            .ok_or_else(|| refuse("there is no colon"))?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(refuse("it begins neither with tcp nor with udp")),
        };
        let (host, guest) = rest
            .rsplit_once('-')
            .ok_or_else(|| refuse("there is no - between the host's side and the guest's"))?;
        let port = |text: &str| match text.parse() {
            Ok(0) | Err(_) => Err(refuse("a port is a number from 1 to 65535")),
            Ok(port) => Ok(port),
        };
        let (address, host) = host
            .rsplit_once(':')
            .ok_or_else(|| refuse("the host's side has no colon before its port"))?;
        let address = match address.trim_start_matches('[').trim_end_matches(']') {
            "" => None,
            address => {
                let parsed = address.parse();
                Some(parsed.map_err(|_| refuse("the host's address is none"))?)
            }
        };
        let guest = guest.strip_prefix(':').ok_or_else(|| {
            refuse("the guest's side is a colon and a port: its address is passt's")
        })?;
        Ok(Self {
            protocol,
            address,
            host: port(host)?,
            guest: port(guest)?,
        })
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        match self.address {
            None => write!(f, "{protocol}::{}-:{}", self.host, self.guest),
            Some(IpAddr::V4(ip)) => write!(f, "{protocol}:{ip}:{}-:{}", self.host, self.guest),
            Some(IpAddr::V6(ip)) => write!(f, "{protocol}:[{ip}]:{}-:{}", self.host, self.guest),
        }
    }
}

/// User networking by passt.
#[derive(Clone, Debug)]
pub struct Passt {
    /// The program, looked for in `PATH` if it is no path.
    pub program: PathBuf,
    /// Ports of the host that lead into the guest.
    pub forwards: Vec<Forward>,
}

impl Default for Passt {
    fn default() -> Self {
        Self {
            program: PathBuf::from("passt"),
            forwards: Vec::new(),
        }
    }
}

impl Passt {
    /// Starts passt and returns the socket that carries its frames, for
    /// [`stream_backend`](crate::stream_backend). passt has set itself up when this returns, and
    /// ends when the socket is closed. As root it continues as nobody.
    ///
    /// # Errors
    /// [`Error::NoPasst`] where it is not installed, [`Error::Passt`] with what it says when it can
    /// not do it: a port that is taken, no route to the outside.
    pub fn start(&self) -> Result<UnixStream, Error> {
        let failed = |reason: String| Error::Passt { reason };
        let (ours, its) = UnixStream::pair().map_err(|error| failed(error.to_string()))?;
        let mut command = Command::new(&self.program);
        command.arg("--quiet").arg("--stderr");
        command.arg("--fd").arg(its.as_raw_fd().to_string());
        for (option, protocol) in [
            ("--tcp-ports", Protocol::Tcp),
            ("--udp-ports", Protocol::Udp),
        ] {
            let forwards = self
                .forwards
                .iter()
                .filter(|forward| forward.protocol == protocol);
            for forward in forwards {
                command.arg(option).arg(forward_argument(forward));
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        sys::inherit(&mut command, its.as_fd());
        // The process that is started ends when the one that stays is ready, or could not be.
        let output = command.output().map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::NoPasst {
                program: self.program.clone(),
            },
            _ => failed(error.to_string()),
        })?;
        if output.status.success() {
            return Ok(ours);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .lines()
            .rev()
            .map(str::trim)
            .find(|line| !line.is_empty());
        Err(failed(match last {
            Some(line) => line.chars().take(200).collect(),
            None => output.status.to_string(),
        }))
    }
}

/// passt's own notation: `ADDRESS/HOST:GUEST`.
fn forward_argument(forward: &Forward) -> String {
    let ports = format!("{}:{}", forward.host, forward.guest);
    match forward.address {
        Some(address) => format!("{address}/{ports}"),
        None => ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_written_as_people_know_them() {
        for text in [
            "tcp::2222-:22",
            "udp:127.0.0.1:53-:53",
            "tcp:[::1]:8080-:80",
        ] {
            assert_eq!(text.parse::<Forward>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "tcp",
            "tcp:",
            "sctp::1-:2",
            "tcp:2222-:22",
            "tcp::2222",
            "tcp::2222-22",
            "tcp::0-:22",
            "tcp::65536-:22",
            "tcp::2222-:0",
            "tcp:host:2222-:22",
            "tcp::2222-10.0.2.15:22",
            "tcp::-1-:22",
        ] {
            let error = bad.parse::<Forward>().unwrap_err();
            assert!(
                matches!(error, Error::InvalidForward { .. }),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn passt_is_told_in_its_own_words() {
        let argument = |text: &str| forward_argument(&text.parse().unwrap());
        assert_eq!(argument("tcp::2222-:22"), "2222:22");
        assert_eq!(argument("tcp:127.0.0.1:2222-:22"), "127.0.0.1/2222:22");
    }

    #[test]
    fn a_missing_program_is_said() {
        let passt = Passt {
            program: PathBuf::from("/nonexistent/passt"),
            forwards: Vec::new(),
        };
        assert!(matches!(passt.start(), Err(Error::NoPasst { .. })));
    }
}
