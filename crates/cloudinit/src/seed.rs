//! What a seed consists of.

use std::fs::File;
use std::io::Write;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use sha2::{Digest, Sha256};

use crate::check::{self, Warning};
use crate::error::{Error, Result};
use crate::iso::{self, Entry};

/// The volume's label, by which cloud-init finds a seed (NoCloud data source). Lower case, which
/// every release of it takes.
pub const LABEL: &str = "cidata";

/// The largest file of a seed, in bytes.
pub const MAX_FILE: usize = 16 << 20;

/// The longest host name (RFC 1123 §2.1, RFC 1035 §2.3.4).
const MAX_HOSTNAME: usize = 253;

/// A seed for cloud-init's NoCloud data source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed<'a> {
    /// What cloud-init is to do: `#cloud-config`, a script, or another format that it knows.
    pub user_data: &'a [u8],
    /// Who the machine is.
    pub meta_data: MetaData<'a>,
    /// Its network, as cloud-init's version 1 or 2; otherwise cloud-init uses DHCP on its first
    /// network device.
    pub network_config: Option<&'a [u8]>,
}

/// Who a machine is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MetaData<'a> {
    /// Its instance-id is a digest of the seed, so that a changed seed is a new instance, to which
    /// cloud-init does its work again. Its host name comes from that.
    #[default]
    Derived,
    /// As `Derived`, with this host name.
    Hostname(&'a str),
    /// The whole file: YAML, or JSON.
    Given(&'a [u8]),
}

impl<'a> Seed<'a> {
    /// A seed with only user-data.
    pub fn new(user_data: &'a [u8]) -> Self {
        Self {
            user_data,
            meta_data: MetaData::Derived,
            network_config: None,
        }
    }

    /// What cloud-init would ignore, or take for something else. A seed with warnings can be built.
    pub fn warnings(&self) -> Vec<Warning> {
        let mut warnings = check::user_data(self.user_data);
        if let MetaData::Given(text) = self.meta_data {
            warnings.extend(check::meta_data(text));
        }
        warnings.extend(self.network_config.and_then(check::network_config));
        warnings
    }

    /// The image of the seed disk: ISO 9660 with Rock Ridge and Joliet names. Its length is a
    /// multiple of 2048 bytes, and the same seed gives the same bytes.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Hostname`].
    pub fn build(&self) -> Result<Vec<u8>> {
        limit("user-data", self.user_data)?;
        let meta_data = self.meta_data()?;
        limit("meta-data", &meta_data)?;
        // Sorted, as directories are (ECMA-119 §10.3).
        let mut entries = vec![Entry {
            name: "meta-data",
            plain: "META_DATA.;1",
            contents: &meta_data,
        }];
        if let Some(contents) = self.network_config {
            limit("network-config", contents)?;
            entries.push(Entry {
                name: "network-config",
                plain: "NETWORK_CONFIG.;1",
                contents,
            });
        }
        entries.push(Entry {
            name: "user-data",
            plain: "USER_DATA.;1",
            contents: self.user_data,
        });
        Ok(iso::build(LABEL, &entries))
    }

    /// Writes the image.
    ///
    /// # Errors
    /// Those of [`Seed::build`], and [`Error::Write`]: what was written then is incomplete.
    pub fn write_to(&self, to: &mut impl Write) -> Result<()> {
        to.write_all(&self.build()?).map_err(Error::Write)
    }

    /// The image as a file in memory that has no name and that nobody can change any more: it is
    /// sealed. It ends with its last descriptor.
    ///
    /// # Errors
    /// Those of [`Seed::build`], and [`Error::Memory`].
    pub fn to_memfd(&self) -> Result<File> {
        let image = self.build()?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = |error: rustix::io::Errno| Error::Memory(error.into());
        let mut file = File::from(memfd_create(c"cloud-init seed", flags).map_err(memory)?);
        file.write_all(&image).map_err(Error::Memory)?;
        let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
        fcntl_add_seals(&file, seals).map_err(memory)?;
        Ok(file)
    }

    /// The contents of meta-data.
    fn meta_data(&self) -> Result<Vec<u8>> {
        let (id, hostname) = match self.meta_data {
            MetaData::Given(text) => return Ok(text.to_vec()),
            MetaData::Derived => {
                let id = self.digest("");
                (id.clone(), format!("guest-{}", id.get(..8).unwrap_or(&id)))
            }
            MetaData::Hostname(name) => {
                if !is_hostname(name) {
                    return Err(Error::Hostname(name.to_owned()));
                }
                (self.digest(name), name.to_owned())
            }
        };
        // Quoted: a name of digits alone is a number to YAML.
        Ok(format!("instance-id: \"iid-{id}\"\nlocal-hostname: \"{hostname}\"\n").into_bytes())
    }

    /// The first 16 hexadecimal digits of a digest of all that is in the seed.
    fn digest(&self, hostname: &str) -> String {
        let mut hasher = Sha256::new();
        let network = self.network_config.unwrap_or_default();
        for part in [self.user_data, network, hostname.as_bytes()] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let digest = hasher.finalize();
        digest
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

fn limit(name: &'static str, contents: &[u8]) -> Result<()> {
    match contents.len() {
        size if size > MAX_FILE => Err(Error::TooLarge {
            name,
            size,
            limit: MAX_FILE,
        }),
        _ => Ok(()),
    }
}

fn is_hostname(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    name.len() <= MAX_HOSTNAME && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names() {
        for good in ["a", "web-1", "123", "a.example.org", &"x".repeat(63)] {
            assert!(is_hostname(good), "{good}");
        }
        let long = vec!["x".repeat(63); 4].join(".");
        for bad in [
            "",
            "-a",
            "a-",
            "a..b",
            ".",
            "a_b",
            "a b",
            "a\"\nx",
            "ä",
            &"x".repeat(64),
            &long,
        ] {
            assert!(!is_hostname(bad), "{bad}");
        }
    }

    #[test]
    fn another_seed_is_another_instance() {
        let seed = Seed::new(b"#cloud-config\n");
        let other = Seed::new(b"#cloud-config\n ");
        let network = Seed {
            network_config: Some(b"version: 2\n"),
            ..seed
        };
        let named = Seed {
            meta_data: MetaData::Hostname("web"),
            ..seed
        };
        let all = [seed, other, network, named].map(|seed| seed.meta_data().unwrap());
        for (index, one) in all.iter().enumerate() {
            assert!(!all[index + 1..].contains(one));
        }
        assert_eq!(seed.meta_data().unwrap(), all[0]);
        assert!(all[3].ends_with(b"local-hostname: \"web\"\n"));
    }
}
