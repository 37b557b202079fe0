//! Command lines as the C library's `getopt_long` reads them: clustered short options, values
//! attached or apart, unique prefixes of long options, operands and options in any order.

use crate::report::{Failure, Outcome};

/// One option: its short letter, its long name, whether it takes a value.
pub type Spec = (Option<char>, &'static str, bool);

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
            let value = match (spec.2, attached) {
                (true, Some(value)) => value,
                (true, None) => rest.next().cloned().ok_or_else(|| missing(arg))?,
                (false, None) => String::new(),
                (false, Some(_)) => return Err(unrecognized(arg)),
            };
            parsed.options.push((spec.1.to_owned(), value));
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
        let spec = specs.iter().find(|spec| spec.0 == Some(letter));
        let (_, name, takes_value) = spec.ok_or_else(|| unrecognized(arg))?;
        let mut value = String::new();
        if *takes_value {
            value = letters.by_ref().collect();
            if value.is_empty() {
                value = rest.next().cloned().ok_or_else(|| missing(arg))?;
            }
        }
        let name = if name.is_empty() {
            letter.to_string()
        } else {
            (*name).to_owned()
        };
        parsed.options.push((name, value));
    }
    Ok(())
}

fn find_long(specs: &[Spec], name: &str) -> Option<Spec> {
    let named = || specs.iter().filter(|spec| !spec.1.is_empty());
    if let Some(exact) = named().find(|spec| spec.1 == name) {
        return Some(*exact);
    }
    let mut matching = named().filter(|spec| spec.1.starts_with(name));
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
        (Some('f'), "format", true),
        (Some('q'), "", false),
        (None, "force-share", false),
        (None, "object", true),
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
