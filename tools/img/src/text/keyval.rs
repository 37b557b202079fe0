//! `key=value,key=value` strings, in which a comma inside of a value is written twice.

/// Splits `text` into its pairs.
///
/// A first part without `=` is the value of `implied`, if that is given; any other part without
/// `=` is a flag: `on`, or `off` for a name that starts with "no".
pub fn parse(text: &str, implied: Option<&str>) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    let mut rest = text;
    let mut implied = implied;
    while !rest.is_empty() {
        let end = rest.find(['=', ',']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (pair, remaining) = match (after.strip_prefix('='), implied) {
            (Some(after), _) => {
                let (value, remaining) = value(after);
                ((name.to_owned(), value), remaining)
            }
            (None, Some(implied)) => {
                let (value, remaining) = value(rest);
                ((implied.to_owned(), value), remaining)
            }
            (None, None) => (flag(name), after),
        };
        pairs.push(pair);
        implied = None;
        rest = remaining.strip_prefix(',').unwrap_or(remaining);
    }
    pairs
}

fn flag(name: &str) -> (String, String) {
    match name.strip_prefix("no") {
        Some(name) => (name.to_owned(), "off".to_owned()),
        None => (name.to_owned(), "on".to_owned()),
    }
}

/// The value up to a single comma, and what follows.
fn value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut rest = text;
    while let Some(comma) = rest.find(',') {
        value.push_str(&rest[..comma]);
        match rest[comma + 1..].strip_prefix(',') {
            Some(after) => {
                value.push(',');
                rest = after;
            }
            None => return (value, &rest[comma..]),
        }
    }
    value.push_str(rest);
    (value, "")
}

/// Writes every comma of `text` twice.
pub fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

/// Whether an option string asks for help: "help" or "?" as one of its parts.
pub fn asks_for_help(text: &str) -> bool {
    parse(text, None)
        .iter()
        .any(|(name, value)| value == "on" && (name == "help" || name == "?"))
}

/// Whether strings like this can be joined by commas: not empty, no leading comma, no odd
/// number of trailing ones.
pub fn joinable(text: &str) -> bool {
    let trailing = text.len() - text.trim_end_matches(',').len();
    !text.is_empty() && !text.starts_with(',') && trailing.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str, implied: Option<&str>) -> Vec<String> {
        parse(text, implied)
            .into_iter()
            .map(|(name, value)| format!("{name}:{value}"))
            .collect()
    }

    #[test]
    fn commas_flags_and_implied_names() {
        assert_eq!(pairs("a=1,,2,b=,c", None), ["a:1,2", "b:", "c:on"]);
        assert_eq!(pairs("x,,y,a=1", Some("file")), ["file:x,y", "a:1"]);
        assert_eq!(pairs("nolazy,a=b=c", None), ["lazy:off", "a:b=c"]);
        assert!(asks_for_help("size=1,help") && asks_for_help("?") && !asks_for_help("a=help"));
        assert!(joinable("a=b,,") && !joinable("a,") && !joinable(",a") && !joinable(""));
    }
}
