//! PBKDF2 (RFC 8018 §5.2) over the header's hash, and how many iterations take how long.

use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::algorithm::Hash;

/// Fewest iterations ever chosen, whatever the time limit (QEMU and cryptsetup agree on it).
pub const MIN_ITERATIONS: u32 = 1000;

/// Most iterations that this crate chooses or, by default, accepts: about half a minute of one
/// core per key slot. A header that claims more is a way to stall whoever opens it.
pub const MAX_ITERATIONS: u32 = 1 << 26;

/// Fills `out` with the key derived from `secret`.
pub(crate) fn derive(hash: Hash, secret: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
    match hash {
        Hash::Sha1 => pbkdf2::pbkdf2_hmac::<sha1::Sha1>(secret, salt, iterations, out),
        Hash::Sha256 => pbkdf2::pbkdf2_hmac::<sha2::Sha256>(secret, salt, iterations, out),
        Hash::Sha512 => pbkdf2::pbkdf2_hmac::<sha2::Sha512>(secret, salt, iterations, out),
    }
}

/// Iterations that derive `key_len` bytes in about `time`, within
/// [`MIN_ITERATIONS`]`..=`[`MAX_ITERATIONS`].
pub(crate) fn calibrate(hash: Hash, key_len: usize, time: Duration) -> u32 {
    const SAMPLE: Duration = Duration::from_millis(5);
    let mut out = Zeroizing::new(vec![0; key_len]);
    let mut iterations = 1 << 10;
    loop {
        let start = Instant::now();
        derive(hash, b"calibration", &[0x5a; 32], iterations, &mut out);
        let spent = start.elapsed();
        if spent >= SAMPLE || iterations >= MAX_ITERATIONS {
            let wanted = f64::from(iterations) * time.as_secs_f64() / spent.as_secs_f64();
            // A float cast saturates, so an absurd ratio still ends at the bound.
            return (wanted as u32).clamp(MIN_ITERATIONS, MAX_ITERATIONS);
        }
        iterations *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6070_and_sha256_vectors() {
        let mut out = [0; 20];
        derive(Hash::Sha1, b"password", b"salt", 2, &mut out);
        assert_eq!(out[..4], [0xea, 0x6c, 0x01, 0x4d]);
        let mut out = [0; 32];
        derive(Hash::Sha256, b"password", b"salt", 1, &mut out);
        assert_eq!(out[..4], [0x12, 0x0f, 0xb6, 0xcf]);
    }

    #[test]
    fn calibration_stays_in_bounds() {
        assert_eq!(calibrate(Hash::Sha1, 20, Duration::ZERO), MIN_ITERATIONS);
        assert_eq!(
            calibrate(Hash::Sha1, 20, Duration::from_secs(1 << 40)),
            MAX_ITERATIONS
        );
    }
}
