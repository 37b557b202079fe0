//! The anti-forensic splitter of LUKS1 §2.4: a key spread over stripes so that losing any one
//! of them loses the key.

use sha2::Digest;
use zeroize::Zeroizing;

use crate::algorithm::Hash;
use crate::{Error, Result};

/// Spreads `key` over `stripes` blocks of its length.
pub(crate) fn split(hash: Hash, key: &[u8], stripes: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut material = Zeroizing::new(vec![0; key.len() * stripes]);
    let (random, last) = material.split_at_mut(key.len() * (stripes - 1));
    getrandom::fill(random).map_err(Error::Random)?;
    last.copy_from_slice(&fold(hash, random, key.len()));
    xor(last, key);
    Ok(material)
}

/// The key that `split` spread.
pub(crate) fn merge(hash: Hash, material: &[u8], key_len: usize) -> Zeroizing<Vec<u8>> {
    let (random, last) = material.split_at(material.len() - key_len);
    let mut key = fold(hash, random, key_len);
    xor(&mut key, last);
    key
}

/// `d = H(d xor block)` over all blocks of `len` bytes.
fn fold(hash: Hash, blocks: &[u8], len: usize) -> Zeroizing<Vec<u8>> {
    let mut acc = Zeroizing::new(vec![0; len]);
    for block in blocks.chunks_exact(len) {
        xor(&mut acc, block);
        match hash {
            Hash::Sha1 => diffuse::<sha1::Sha1>(&mut acc),
            Hash::Sha256 => diffuse::<sha2::Sha256>(&mut acc),
            Hash::Sha512 => diffuse::<sha2::Sha512>(&mut acc),
        }
    }
    acc
}

/// Replaces each digest-sized chunk by the hash of its big-endian number and itself.
fn diffuse<D: Digest>(block: &mut [u8]) {
    for (number, chunk) in (0u32..).zip(block.chunks_mut(<D as Digest>::output_size())) {
        let digest = D::new()
            .chain_update(number.to_be_bytes())
            .chain_update(&*chunk)
            .finalize();
        chunk.copy_from_slice(&digest[..chunk.len()]);
    }
}

fn xor(into: &mut [u8], with: &[u8]) {
    into.iter_mut().zip(with).for_each(|(a, b)| *a ^= b);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_undoes_split_and_needs_every_stripe() {
        for hash in [Hash::Sha1, Hash::Sha256, Hash::Sha512] {
            // 24 and 64 bytes end inside a digest of some of the hashes.
            for len in [16usize, 24, 32, 64] {
                let key: Vec<u8> = (0..len as u8).collect();
                let mut material = split(hash, &key, 40).unwrap();
                assert_eq!(*merge(hash, &material, len), key);
                material[3 * len] ^= 1;
                assert_ne!(*merge(hash, &material, len), key);
            }
        }
    }
}
