//! Names that depend on content alone.

use sha2::{Digest, Sha256};

/// All of this program that decides what is in an image: another version of it makes other images.
const RECIPE: [&str; 8] = [
    include_str!("build.rs"),
    include_str!("disk.rs"),
    include_str!("gpt.rs"),
    include_str!("initrd.rs"),
    include_str!("recipe/initrd-init.sh"),
    include_str!("recipe/standard.sh"),
    include_str!("recipe/test-init.sh"),
    include_str!("recipe/test.sh"),
];

/// The digest of the recipe and of these words, none of which runs into the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key([u8; 32]);

impl Key {
    pub(crate) fn new<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut hasher = Sha256::new();
        for word in RECIPE.into_iter().chain(words) {
            hasher.update((word.len() as u64).to_le_bytes());
            hasher.update(word);
        }
        Self(hasher.finalize().into())
    }

    /// Its first 16 hexadecimal digits.
    pub(crate) fn short(&self) -> String {
        self.0[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// A UUID for this purpose, as bytes in the order of its text (RFC 9562, version 8).
    pub(crate) fn uuid(&self, purpose: &str) -> [u8; 16] {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(purpose);
        let digest: [u8; 32] = hasher.finalize().into();
        let mut uuid = [0; 16];
        uuid.copy_from_slice(&digest[..16]);
        uuid[6] = uuid[6] & 0x0f | 0x80;
        uuid[8] = uuid[8] & 0x3f | 0x80;
        uuid
    }
}

/// The text of a UUID.
pub(crate) fn text(uuid: &[u8; 16]) -> String {
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_run_together() {
        assert_eq!(Key::new(["ab", "c"]), Key::new(["ab", "c"]));
        assert_ne!(Key::new(["ab", "c"]), Key::new(["a", "bc"]));
        assert_ne!(Key::new(["ab"]), Key::new(["ab", ""]));
        assert_eq!(Key::new([]).short().len(), 16);
    }

    #[test]
    fn uuids_have_their_own_version_and_purpose() {
        let key = Key::new(["x"]);
        assert_ne!(key.uuid("disk"), key.uuid("partition"));
        let text = text(&key.uuid("disk"));
        assert_eq!(text.len(), 36);
        assert_eq!(text.as_bytes()[14], b'8');
        assert!(b"89ab".contains(&text.as_bytes()[19]));
    }
}
