//! The crate's one error type.

use std::io;

use crate::Kind;

/// What failed, on what.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host's KVM has no controller of this kind.
    #[error("this host's KVM offers no {kind} interrupt controller; try the other kind")]
    Unsupported {
        /// The kind that was asked for.
        kind: Kind,
    },
    /// KVM refused to make the controller: there is one already, or a vCPU exists.
    #[error("cannot create the {kind} interrupt controller (is it made before the vCPUs?)")]
    Create {
        /// The kind that was asked for.
        kind: Kind,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// KVM refused the routing table; the table before it stays in force.
    #[error("cannot set the routing table of {count} GSIs")]
    SetRoutes {
        /// Routes in the table.
        count: usize,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// Every GSI that KVM can route is taken.
    #[error("no GSI is free: all {limit} are taken")]
    NoFreeGsi {
        /// GSIs that KVM can route.
        limit: u32,
    },
    /// Another line or interrupt owns the GSI.
    #[error("GSI {gsi} has an owner already")]
    GsiInUse {
        /// The GSI.
        gsi: u32,
    },
    /// The GSI is no pin of the controller.
    #[error("GSI {gsi} is no pin of the interrupt controller")]
    NotAPin {
        /// The GSI.
        gsi: u32,
    },
    /// The GSI is a pin, belongs to nobody, or lies beyond what KVM routes.
    #[error("GSI {gsi} is not allocated to a message-signalled interrupt")]
    NotAnMsi {
        /// The GSI.
        gsi: u32,
    },
    /// An eventfd could not be made.
    #[error("cannot create the eventfd of an interrupt")]
    CreateEventFd(#[source] io::Error),
    /// An eventfd could not be read or written.
    #[error("cannot {action} the eventfd of GSI {gsi}")]
    EventFd {
        /// `"read"` or `"write"`.
        action: &'static str,
        /// The GSI it belongs to.
        gsi: u32,
        /// What the host answered.
        source: io::Error,
    },
    /// An eventfd could not be tied to its GSI or untied.
    #[error("cannot {action} the irqfd of GSI {gsi}")]
    Irqfd {
        /// `"register"` or `"unregister"`.
        action: &'static str,
        /// The GSI.
        gsi: u32,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// A pin's level could not be changed.
    #[error("cannot set the level of pin {pin}")]
    SetLine {
        /// The pin.
        pin: u32,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// A message could not be sent.
    #[error("cannot send the interrupt message {data:#x} to {address:#x}")]
    SignalMsi {
        /// Address of the message.
        address: u64,
        /// Data of the message.
        data: u32,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// An in-kernel chip's state could not be read or written.
    #[error("cannot {action} the state of the in-kernel {chip}")]
    Chip {
        /// `"get"` or `"set"`.
        action: &'static str,
        /// The chip.
        chip: &'static str,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// The VM's clock could not be read or written.
    #[error("cannot {action} the VM's clock")]
    Clock {
        /// `"get"` or `"set"`.
        action: &'static str,
        /// What KVM answered.
        source: kvm_ioctls::Error,
    },
    /// A saved state holds what no running machine can hold.
    #[error("the saved state of the {what} is invalid: {field}")]
    InvalidState {
        /// What the state is of.
        what: &'static str,
        /// The field that was refused.
        field: &'static str,
    },
    /// A saved state was taken from a controller of the other kind.
    #[error("the saved interrupt controller is not {kind}, as this machine's is")]
    WrongKind {
        /// The kind of this machine's controller.
        kind: Kind,
    },
}
