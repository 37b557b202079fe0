//! Placeholders in the arguments of a measured program.

use crate::error::{Error, Result};

/// Replaces each `{name}` in `text`. `{{` and `}}` stand for braces.
///
/// # Errors
/// [`Error::Placeholder`] for a name that is not in `values`.
pub(crate) fn expand(text: &str, values: &[(&str, &str)]) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out += &rest[..at];
        rest = &rest[at..];
        if let Some(brace) = ["{{", "}}"].into_iter().find(|b| rest.starts_with(b)) {
            out += &brace[1..];
            rest = &rest[2..];
        } else if let Some((name, after)) =
            rest[1..].split_once('}').filter(|_| rest.starts_with('{'))
        {
            let value = values.iter().find(|(known, _)| *known == name);
            out += value.ok_or_else(|| unknown(name, values))?.1;
            rest = after;
        } else {
            out += &rest[..1];
            rest = &rest[1..];
        }
    }
    Ok(out + rest)
}

fn unknown(name: &str, values: &[(&str, &str)]) -> Error {
    let known: Vec<_> = values
        .iter()
        .map(|(name, _)| format!("{{{name}}}"))
        .collect();
    Error::Placeholder {
        name: name.to_string(),
        known: known.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: &[(&str, &str)] = &[("kernel", "/k"), ("memory", "256M")];

    #[test]
    fn names_are_replaced_and_braces_kept() {
        for (text, expanded) in [
            ("-m {memory} {kernel}{kernel}", "-m 256M /k/k"),
            ("{{memory}} {{{memory}}}", "{memory} {256M}"),
            ("no } and { here", "no } and { here"),
            ("", ""),
        ] {
            assert_eq!(expand(text, VALUES).unwrap(), expanded);
        }
    }

    #[test]
    fn an_unknown_name_is_an_error_that_lists_the_known() {
        let error = expand("{initrd}", VALUES).unwrap_err().to_string();
        assert!(
            error.contains("{initrd}") && error.contains("{kernel} {memory}"),
            "{error}"
        );
    }
}
