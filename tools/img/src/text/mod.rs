//! Text that is read or printed: sizes, JSON, option strings.

pub mod json;
pub mod keyval;
pub mod size;
