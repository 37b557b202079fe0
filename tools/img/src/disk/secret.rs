//! Secrets defined by `--object secret,id=...`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::fail;
use crate::report::{Failure, Outcome};
use crate::text::{json, keyval};

static SECRETS: Mutex<BTreeMap<String, Zeroizing<Vec<u8>>>> = Mutex::new(BTreeMap::new());

/// More than any passphrase; a file named by mistake is not read whole.
const MAX_FILE: u64 = 1 << 20;

/// Defines the object that an `--object` argument describes.
///
/// # Errors
/// For anything but a complete `secret`.
pub fn define(text: &str) -> Outcome<()> {
    let pairs = if text.starts_with('{') {
        json::parse(text).map_err(Failure::new)?.flatten()
    } else {
        keyval::parse(text, Some("qom-type"))
    };
    let get = |name: &str| {
        pairs
            .iter()
            .rev()
            .find(|(given, _)| given == name)
            .map(|(_, value)| value.as_str())
    };
    match get("qom-type") {
        Some("secret") => {}
        Some(other) => fail!("Parameter 'qom-type' does not accept value '{other}'"),
        None => fail!("Parameter 'qom-type' is missing"),
    }
    let id = get("id").ok_or_else(|| Failure::new("Parameter 'id' is missing"))?;
    for (name, _) in &pairs {
        if !["qom-type", "id", "data", "file", "format"].contains(&name.as_str()) {
            fail!("Parameter '{name}' is unexpected");
        }
    }
    let raw = match (get("data"), get("file")) {
        (Some(data), None) => Zeroizing::new(data.as_bytes().to_vec()),
        (None, Some(path)) => read(path)?,
        (Some(_), Some(_)) => fail!("'file' and 'data' are mutually exclusive"),
        (None, None) => fail!("Must provide 'file' or 'data'"),
    };
    let secret = match get("format") {
        None | Some("raw") => raw,
        Some("base64") => base64(&raw)?,
        Some(other) => fail!("Parameter 'format' does not accept value '{other}'"),
    };
    SECRETS
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id.to_owned(), secret);
    Ok(())
}

/// The secret called `id`.
///
/// # Errors
/// If there is none.
fn get(id: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let secrets = SECRETS.lock().unwrap_or_else(PoisonError::into_inner);
    let secret = secrets.get(id).cloned();
    secret.ok_or_else(|| Failure::new(format!("No secret with id '{id}'")))
}

/// The passphrase in the secret called `id`.
///
/// # Errors
/// If there is none, or it is no UTF-8 text, which a passphrase typed elsewhere could not be.
pub fn passphrase(id: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let secret = get(id)?;
    match std::str::from_utf8(&secret) {
        Ok(_) => Ok(secret),
        Err(_) => fail!("Data from secret {id} is not valid UTF-8"),
    }
}

fn read(path: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let length = std::fs::metadata(path).map(|meta| meta.len());
    let data = match length {
        Ok(length) if length > MAX_FILE => fail!("Unable to read {path}: file is too large"),
        Ok(_) => std::fs::read(path),
        Err(error) => Err(error),
    };
    data.map(Zeroizing::new)
        .map_err(|error| Failure::new(format!("Unable to read {path}: {error}")))
}

/// Decodes base64 (RFC 4648 §4), line breaks and blanks left out.
fn base64(text: &[u8]) -> Outcome<Zeroizing<Vec<u8>>> {
    let fault = || Failure::new("Base64 data is not valid for a secret");
    let digits: Vec<u8> = text
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    let padding = digits
        .iter()
        .rev()
        .take_while(|digit| **digit == b'=')
        .count();
    if !digits.len().is_multiple_of(4) || padding > 2 {
        return Err(fault());
    }
    let mut decoded = Zeroizing::new(Vec::with_capacity(digits.len() / 4 * 3));
    let (mut bits, mut held) = (0u32, 0);
    for digit in &digits[..digits.len() - padding] {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(fault()),
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            decoded.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_base64() {
        define("secret,id=plain,data=a,,b").unwrap();
        assert_eq!(**get("plain").unwrap(), *b"a,b");
        define("{'qom-type':'secret','id':'coded','format':'base64','data':'cGFzcw=='}").unwrap();
        assert_eq!(**get("coded").unwrap(), *b"pass");
        assert!(get("other").is_err());
        define("secret,id=noise,format=base64,data=/w==").unwrap();
        assert!(get("noise").is_ok() && passphrase("noise").is_err());
        assert!(passphrase("plain").is_ok());
        for bad in [
            "secret,id=x",
            "secret,data=x",
            "rng,id=x",
            "secret,id=x,data=a=,format=base64",
        ] {
            assert!(define(bad).is_err(), "{bad}");
        }
    }
}
