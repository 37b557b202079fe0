//! What a command answers when it can not.

use std::fmt::Display;

use serde_json::{Value, json};

/// The classes of errors (QEMU's QAPI schema, `QapiErrorClass`). Clients look at them only to tell
/// the others from [`Class::GenericError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Whatever has no class of its own.
    GenericError,
    /// There is no such command, or not now.
    CommandNotFound,
    /// The device is not in use.
    DeviceNotActive,
    /// There is no such device.
    DeviceNotFound,
    /// The host's KVM lacks something.
    KvmMissingCap,
}

impl Class {
    /// The class as it is sent.
    pub fn name(self) -> &'static str {
        match self {
            Self::GenericError => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
        }
    }
}

/// An error answer: a class for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{desc}")]
pub struct Error {
    /// The class.
    pub class: Class,
    /// What went wrong. Clients show it; none should take it apart.
    pub desc: String,
}

impl Error {
    /// An error of this class.
    pub fn new(class: Class, desc: impl Display) -> Self {
        let desc = desc.to_string();
        Self { class, desc }
    }

    /// An error that has no class of its own.
    pub fn generic(desc: impl Display) -> Self {
        Self::new(Class::GenericError, desc)
    }

    /// There is no device called `id`.
    pub fn device_not_found(id: &str) -> Self {
        Self::new(
            Class::DeviceNotFound,
            format_args!("Device '{id}' not found"),
        )
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({ "class": self.class.name(), "desc": self.desc })
    }
}
