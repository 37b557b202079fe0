//! Copying the contents of images into another, sparse areas left out.

mod engine;
mod zeroes;

pub(super) use engine::{Plan, Sources};
