//! What can go wrong, said so that the reader knows what to do next.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::exit;

/// A failure of `strata`, outside of the guest.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that the user named can not be used.
    #[error("{what} {path}: {source}; {remedy}", path = path.display())]
    File {
        /// What the file is for.
        what: &'static str,
        /// Where it is.
        path: PathBuf,
        /// What to do.
        remedy: &'static str,
        /// What the operating system answered.
        source: io::Error,
    },
    /// A configuration file says something that is not understood.
    #[error("{path}: {message}", path = path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where in it.
        message: String,
    },
    /// Neither the command line nor a configuration file names a kernel.
    #[error("no kernel: name one with --kernel FILE, or in a file given with --config")]
    NoKernel,
    /// Two devices have one name.
    #[error("two devices have the id {0}: give one of them another")]
    TakenId(String),
    /// Two consoles are on standard input and output.
    #[error(
        "two consoles are on standard input and output: give one of them null, file=PATH or unix=PATH"
    )]
    StdioTaken,
    /// The guest is asked for all of its memory.
    #[error("a balloon of {0} leaves nothing of {1} of memory: ask for less")]
    BalloonSize(strata_memory::MemorySize, strata_memory::MemorySize),
    /// The virtio console can not be.
    #[error("the virtio console can not be made: {0}")]
    Console(io::Error),
    /// The socket device.
    #[error(transparent)]
    Vsock(#[from] strata_vsock::Error),
    /// No device has this name.
    #[error("there is no device with the id {0}")]
    NoDevice(String),
    /// The guest has let go of a device, which is being closed.
    #[error("the device {0} is being removed")]
    Removing(String),
    /// No block node has this name.
    #[error("there is no block node {0}")]
    NoNode(String),
    /// A block node has a user already.
    #[error("the block node {node} is in use by {user}")]
    NodeInUse {
        /// The node.
        node: String,
        /// The device, or the node above.
        user: String,
    },
    /// The machine was started without slots that can be filled and emptied.
    #[error("this machine has no hot-plug: start it with --qmp, without hotplug=off")]
    NoHotPlug,
    /// The kernel can not run on this kind of KVM.
    #[error(
        "this host's KVM is of the PVM kind, on which a stock Linux kernel does not boot: use the \
         nested lab (`cargo lab boot`), or say --pvm-kernel if this kernel was built for such a \
         host"
    )]
    PvmHost,
    /// Guest memory.
    #[error(transparent)]
    Memory(#[from] strata_memory::Error),
    /// KVM itself, or a vCPU.
    #[error(transparent)]
    Vcpu(#[from] strata_vcpu::Error),
    /// Interrupts.
    #[error(transparent)]
    Interrupts(#[from] strata_interrupts::Error),
    /// A device.
    #[error(transparent)]
    Device(#[from] strata_legacy::Error),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] strata_block::Error),
    /// An image is of a format that was not said.
    #[error(
        "the disk image {path} looks like qcow2: say format=qcow2, or format=raw if its guest wrote \
         that there", path = .0.display()
    )]
    FormatNeeded(PathBuf),
    /// Two ports of the console have one name.
    #[error("two ports of the console have the name {0}: give one of them another")]
    TakenPort(String),
    /// Two secrets have one name.
    #[error("two secrets have the id {0}: give one of them another")]
    TakenSecret(String),
    /// No secret has this name.
    #[error("there is no secret {0}: define it with --secret id={0},file=PATH")]
    NoSecret(String),
    /// A disk is encrypted, and no key of it was named.
    #[error(
        "the disk image {path} is encrypted: define its passphrase with --secret id=NAME,file=PATH, \
         and name it with encrypt.key-secret=NAME", path = .0.display()
    )]
    KeyNeeded(PathBuf),
    /// A key was named for a disk that is not encrypted.
    #[error(
        "the disk image {path} is not encrypted: leave out encrypt.key-secret", path = .0.display()
    )]
    NotEncrypted(PathBuf),
    /// A network, or the host's side of it.
    #[error(transparent)]
    Net(#[from] strata_net::Error),
    /// Two cards of the machine have one address.
    #[error("the MAC address {0} is taken by {1}; choose another, or none to have one chosen")]
    TakenMac(strata_net::MacAddr, String),
    /// A descriptor that strata should have inherited.
    #[error("descriptor {fd} can not be used: {source}; open it in the process that starts strata")]
    InheritedFd {
        /// Its number.
        fd: i32,
        /// What the operating system answered.
        source: io::Error,
    },
    /// What cloud-init is to read.
    #[error(transparent)]
    CloudInit(#[from] strata_cloud_init::Error),
    /// The PCI bus.
    #[error(transparent)]
    Pci(#[from] strata_pci::Error),
    /// A virtio device.
    #[error(transparent)]
    Virtio(#[from] strata_virtio::Error),
    /// The kernel, the initrd, the command line or the firmware tables.
    #[error(transparent)]
    Boot(#[from] strata_boot::Error),
    /// Guest memory could not be written.
    #[error("guest memory can not be written: {0}")]
    GuestMemory(vm_memory::GuestMemoryError),
    /// KVM refused to make or change the machine.
    #[error("KVM can not {what}: {source}")]
    Kvm {
        /// What was attempted.
        what: &'static str,
        /// What it answered.
        source: kvm_ioctls::Error,
    },
    /// The operating system refused something that no option bears on.
    #[error("can not {what}: {source}")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// What it answered.
        source: io::Error,
    },
    /// Two devices claim the same addresses: a mistake of ours.
    #[error("the addresses of {0} are taken")]
    Bus(&'static str),
    /// The main loop failed.
    #[error("the event loop failed: {0}")]
    EventLoop(event_manager::Error),
    /// A vCPU can not go on. The report says what it was doing.
    #[error("the machine can not go on.\n{0}")]
    Stopped(Box<strata_vcpu::AbnormalExit>),
    /// There is no such command to print the manual of.
    #[error("strata has no command {0}; `strata --help` lists them")]
    NoSuchCommand(String),
}

impl Error {
    /// The process's exit code for this failure: [`exit::FAILURE`] when strata or the host failed
    /// in the middle of things, [`exit::BAD_INPUT`] when what was asked for can not be had.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Kvm { .. } | Self::Host { .. } | Self::Bus(_) | Self::EventLoop(_) => {
                exit::FAILURE
            }
            Self::Stopped(_) | Self::GuestMemory(_) => exit::FAILURE,
            Self::Net(error) if error.is_failure() => exit::FAILURE,
            _ => exit::BAD_INPUT,
        }
    }
}

/// An error with what caused it, on one line, without saying anything twice.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = self.0.to_string();
        f.write_str(&said)?;
        let mut next = self.0.source();
        while let Some(error) = next {
            let text = error.to_string();
            if !said.contains(&text) {
                write!(f, ": {text}")?;
                said = text;
            }
            next = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_said_once() {
        let error = Error::Host {
            what: "jump",
            source: io::Error::other("too high"),
        };
        assert_eq!(Chain(&error).to_string(), "can not jump: too high");
    }

    #[test]
    fn what_the_user_can_mend_is_told_from_what_failed() {
        assert_eq!(Error::NoKernel.exit_code(), exit::BAD_INPUT);
        let failed = Error::Host {
            what: "jump",
            source: io::Error::other("too high"),
        };
        assert_eq!(failed.exit_code(), exit::FAILURE);
    }
}
