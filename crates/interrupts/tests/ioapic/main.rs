//! The IOAPIC model, without KVM: the data sheet's tables, a second model, and stored inputs.

#![allow(clippy::unwrap_used)]

mod corpus;
mod properties;
mod reference;
mod registers;
mod sequence;
mod state;
