//! The bus as a guest sees it.

#![allow(clippy::unwrap_used)]

mod config;
mod corpus;
mod hot_plug;
mod msix;
mod routing;
mod sequence;
mod toy;
