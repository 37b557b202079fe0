//! Sizes with suffixes.

use crate::report::{Failure, Outcome};

/// Why a size was not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeError {
    /// Not a number, or something behind it.
    Invalid,
    /// Negative, or 2^64 and above.
    Range,
}

/// Reads a size: a decimal number with an optional fraction and an optional suffix from `B` to
/// `E` (powers of 1024), or a hexadecimal number.
///
/// # Errors
/// [`SizeError`].
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim_start();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u128::from_str_radix(hex, 16)
            .map_err(|_| SizeError::Invalid)
            .and_then(|value| u64::try_from(value).map_err(|_| SizeError::Range));
    }
    let negative = text.starts_with('-');
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (whole, mut rest) = unsigned.split_at(digits);
    let mut fraction = "";
    if let Some(after) = rest.strip_prefix('.') {
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        (fraction, rest) = after.split_at(digits);
    }
    if whole.is_empty() && fraction.is_empty() {
        return Err(SizeError::Invalid);
    }
    // A number out of range is only called so if nothing follows it.
    let range = if rest.is_empty() {
        SizeError::Range
    } else {
        SizeError::Invalid
    };
    if negative {
        return Err(range);
    }
    let shift = suffix_shift(rest)?;
    let has_fraction = fraction.bytes().any(|digit| digit != b'0');
    if shift == 0 && has_fraction {
        return Err(SizeError::Invalid);
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| range)?
    };
    let part: f64 = format!("0.{fraction}0")
        .parse()
        .map_err(|_| SizeError::Invalid)?;
    let scaled = whole.checked_mul(1 << shift).ok_or(SizeError::Range)?;
    let part = (part * (1u64 << shift) as f64 + 0.5) as u128;
    u64::try_from(scaled + part).map_err(|_| SizeError::Range)
}

fn suffix_shift(suffix: &str) -> Result<u32, SizeError> {
    match suffix {
        "" | "b" | "B" => Ok(0),
        "k" | "K" => Ok(10),
        "m" | "M" => Ok(20),
        "g" | "G" => Ok(30),
        "t" | "T" => Ok(40),
        "p" | "P" => Ok(50),
        "e" | "E" => Ok(60),
        _ => Err(SizeError::Invalid),
    }
}

/// A size given as a command's argument called `name`, at most `max` and at least `min`.
///
/// # Errors
/// A failure in qemu-img's words.
pub fn argument(name: &str, text: &str, min: u64, max: u64) -> Outcome<u64> {
    match parse(text) {
        Ok(value) if (min..=max).contains(&value) => Ok(value),
        Err(SizeError::Invalid) => {
            crate::report::error(format_args!(
                "Invalid {name} specified. You may use k, M, G, T, P or E suffixes for"
            ));
            Err(Failure::new(
                "kilobytes, megabytes, gigabytes, terabytes, petabytes and exabytes.",
            ))
        }
        _ => Err(Failure::new(format!(
            "Invalid {name} specified. Must be between {min} and {max}."
        ))),
    }
}

/// A size argument of 0 to 2^63 - 1.
///
/// # Errors
/// As [`argument`].
pub fn any(name: &str, text: &str) -> Outcome<u64> {
    argument(name, text, 0, i64::MAX as u64)
}

/// Three significant digits and a binary unit: `1.5 KiB`, `512 B`.
pub fn human(value: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // A unit is left when its number reaches 1000, so that three digits are always enough.
    let mut unit = 0;
    while unit + 1 < UNITS.len() && value as f64 >= 1000.0 * 1024f64.powi(unit as i32) {
        unit += 1;
    }
    let scaled = value as f64 / 1024f64.powi(unit as i32);
    format!("{} {}B", significant(scaled), UNITS[unit])
}

/// C's `%.3g` for numbers from 0 to 1000.
fn significant(value: f64) -> String {
    let decimals = match value {
        0.0 => 0,
        _ if value < 1.0 => 3,
        _ if value < 9.995 => 2,
        _ if value < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Three decimals and a binary unit, decimals left out when they are zero: `1.500 KiB`,
/// `64 KiB`, `512 bytes`.
pub fn exact(value: f64) -> String {
    const UNITS: [(f64, &str); 6] = [
        ((1u64 << 60) as f64, "EiB"),
        ((1u64 << 50) as f64, "PiB"),
        ((1u64 << 40) as f64, "TiB"),
        ((1u64 << 30) as f64, "GiB"),
        ((1u64 << 20) as f64, "MiB"),
        ((1u64 << 10) as f64, "KiB"),
    ];
    let unit = UNITS.iter().find(|unit| value >= unit.0);
    let (text, name) = match unit {
        Some((size, name)) => (format!("{:.3}", value / size), *name),
        None => (format!("{value:.6}"), "bytes"),
    };
    match text.split_once(".000") {
        Some((whole, _)) => format!("{whole} {name}"),
        None => format!("{text} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse("1.5k"), Ok(1536));
        assert_eq!(parse("64M"), Ok(64 << 20));
        assert_eq!(parse("0x200"), Ok(512));
        assert_eq!(parse("7.5E"), Ok(15 << 59));
        assert_eq!(parse("1.k"), Ok(1024));
        assert_eq!(parse("16E"), Err(SizeError::Range));
        assert_eq!(parse("-1"), Err(SizeError::Range));
        for bad in ["", "k", "1.5", "1kk", "0x1k", "1x", "."] {
            assert_eq!(parse(bad), Err(SizeError::Invalid), "{bad}");
        }
    }

    #[test]
    fn sizes_are_printed() {
        let cases = [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1536, "1.5 KiB"),
            (200_704, "196 KiB"),
            (3_117_056, "2.97 MiB"),
            (1 << 40, "1 TiB"),
        ];
        for (value, text) in cases {
            assert_eq!(human(value), text);
        }
        assert_eq!(exact(512.0), "512 bytes");
        assert_eq!(exact(65536.0), "64 KiB");
        assert_eq!(exact(1536.0), "1.500 KiB");
    }
}
