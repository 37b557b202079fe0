//! The options of `-o`: which there are for each format, what they mean, how they print.

mod table;
mod values;

pub use table::{Kind, Table, amend_table, create_table};
pub use values::Values;
pub(crate) use values::{number, sized, switch};

/// Prints the options of a table, sorted by name.
pub fn print_help(table: &Table) {
    values::help(table);
}
