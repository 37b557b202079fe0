//! First-boot configuration: `USER-DATA[,META-DATA[,NETWORK-CONFIG]]`, or the same by keys.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::options::{Options, options};

/// The files of cloud-init's NoCloud source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CloudInitConfig {
    /// What the guest is to do at its first boot: `#cloud-config`, a script, ...
    pub user_data: PathBuf,
    /// The instance: its id and its host name; made up where no file is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta_data: Option<PathBuf>,
    /// The network, as netplan would have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network_config: Option<PathBuf>,
}

impl Options for CloudInitConfig {
    const HEADS: &'static [&'static str] = &["user-data", "meta-data", "network-config"];
    const WHAT: &'static str = "cloud-init";
}

options!(CloudInitConfig);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_go_by_place_or_by_key() {
        let all: CloudInitConfig = "u,m,n".parse().unwrap();
        assert_eq!(all.network_config, Some("n".into()));
        assert_eq!("u,meta-data=m,network-config=n".parse(), Ok(all));
        let one: CloudInitConfig = "user.yaml".parse().unwrap();
        assert_eq!((one.user_data, one.meta_data), ("user.yaml".into(), None));
        for bad in ["meta-data=m", "u,m,n,o", "u,network-config=n,m"] {
            assert!(bad.parse::<CloudInitConfig>().is_err(), "{bad}");
        }
    }
}
