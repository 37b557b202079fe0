//! Command lines as the C library's `getopt_long` reads them: clustered short options, values
//! attached or apart, unique prefixes of long options, operands and options in any order.

use crate::report::{Failure, Outcome};

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its short form.
    pub letter: Option<char>,
    /// Its long form; empty if it has none.
    pub name: &'static str,
    /// What its value is called, if it takes one.
    pub value: Option<&'static str>,
    /// What it is for.
    pub help: &'static str,
}

impl Spec {
    /// An option without a value.
    pub const fn flag(letter: Option<char>, name: &'static str, help: &'static str) -> Self {
        Self {
            letter,
            name,
            value: None,
            help,
        }
    }

    /// An option with a value.
    pub const fn value(
        letter: Option<char>,
        name: &'static str,
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Self {
            letter,
            name,
            value: Some(value),
            help,
        }
    }
}

/// A parsed command line.
#[derive(Debug, Default)]
pub struct Parsed {
    /// The options in their order, by long name (or, without one, by letter).
    pub options: Vec<(String, String)>,
    /// Everything else.
    pub operands: Vec<String>,
}

/// Whether options may follow operands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// They may.
    Any,
    /// The first operand ends the options.
    OptionsFirst,
}

/// Reads `args` (without the program's name) by `specs`.
///
/// # Errors
/// A usage failure for an unknown option or a missing value.
pub fn parse(args: &[String], specs: &[Spec], order: Order) -> Outcome<Parsed> {
    let mut parsed = Parsed::default();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            parsed.operands.extend(rest.cloned());
            break;
        } else if let Some(long) = arg.strip_prefix("--") {
            let (name, attached) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let spec = find_long(specs, name).ok_or_else(|| unrecognized(arg))?;
            let value = match (spec.value.is_some(), attached) {
                (true, Some(value)) => value,
                (true, None) => rest.next().cloned().ok_or_else(|| missing(arg))?,
                (false, None) => String::new(),
                (false, Some(_)) => return Err(unrecognized(arg)),
            };
            parsed.options.push((spec.name.to_owned(), value));
        } else if arg.len() > 1 && arg.starts_with('-') {
            parse_cluster(arg, specs, &mut rest, &mut parsed)?;
        } else {
            parsed.operands.push(arg.clone());
            if order == Order::OptionsFirst {
                parsed.operands.extend(rest.cloned());
                break;
            }
        }
    }
    Ok(parsed)
}

fn parse_cluster<'a>(
    arg: &str,
    specs: &[Spec],
    rest: &mut impl Iterator<Item = &'a String>,
    parsed: &mut Parsed,
) -> Outcome<()> {
    let mut letters = arg[1..].chars();
    while let Some(letter) = letters.next() {
        let spec = specs.iter().find(|spec| spec.letter == Some(letter));
        let spec = spec.ok_or_else(|| unrecognized(arg))?;
        let mut value = String::new();
        if spec.value.is_some() {
            value = letters.by_ref().collect();
            if value.is_empty() {
                value = rest.next().cloned().ok_or_else(|| missing(arg))?;
            }
        }
        let name = if spec.name.is_empty() {
            letter.to_string()
        } else {
            spec.name.to_owned()
        };
        parsed.options.push((name, value));
    }
    Ok(())
}

fn find_long(specs: &[Spec], name: &str) -> Option<Spec> {
    let named = || specs.iter().filter(|spec| !spec.name.is_empty());
    if let Some(exact) = named().find(|spec| spec.name == name) {
        return Some(*exact);
    }
    let mut matching = named().filter(|spec| spec.name.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(only), None) => Some(*only),
        _ => None,
    }
}

fn unrecognized(arg: &str) -> Failure {
    Failure::usage(format!("unrecognized option '{arg}'"))
}

fn missing(arg: &str) -> Failure {
    Failure::usage(format!("missing argument for option '{arg}'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[Spec] = &[
        Spec::value(Some('f'), "format", "FORMAT", ""),
        Spec::flag(Some('q'), "", ""),
        Spec::flag(None, "force-share", ""),
        Spec::value(None, "object", "OBJECT", ""),
    ];

    fn parsed(args: &[&str]) -> Parsed {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        parse(&args, SPECS, Order::Any).unwrap()
    }

    fn option(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn clusters_prefixes_and_mixed_order() {
        let line = parsed(&["a", "-qfraw", "--obj=x", "b", "-f", "qcow2", "--", "-q"]);
        assert_eq!(line.operands, ["a", "b", "-q"]);
        let expected = [
            option("q", ""),
            option("format", "raw"),
            option("object", "x"),
            option("format", "qcow2"),
        ];
        assert_eq!(line.options, expected);
        assert_eq!(parsed(&["--forc", "-"]).operands, ["-"]);
    }

    #[test]
    fn faults_are_named() {
        let message = |args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            parse(&args, SPECS, Order::Any)
                .unwrap_err()
                .message
                .unwrap()
        };
        assert_eq!(message(&["-x"]), "unrecognized option '-x'");
        assert_eq!(message(&["--fo"]), "unrecognized option '--fo'");
        assert_eq!(message(&["-f"]), "missing argument for option '-f'");
    }
}
