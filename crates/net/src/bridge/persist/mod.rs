//! The distribution's own network configuration, so that a bridge is there after a boot.
//!
//! Plans are made before anything changes; they are whole new contents of files.

mod ifupdown;
mod networkd;

use super::Host;
use super::create::Uplink;
use super::files::FileContents;
use crate::Error;

/// The files that make the bridge at each boot.
pub(crate) fn plan_create(
    host: &Host,
    bridge: &str,
    uplink: Option<&Uplink>,
) -> Result<Vec<FileContents>, Error> {
    // What runs decides; else, what is configured.
    if host.run_dir("systemd/netif").is_dir() {
        Ok(networkd::create(host, bridge, uplink))
    } else if host.etc("network/interfaces").is_file() {
        ifupdown::create(host, bridge, uplink)
    } else {
        Err(Error::Persist {
            bridge: bridge.to_owned(),
        })
    }
}

/// Undoes what [`plan_create`] planned for the bridge, as far as there is something of it.
pub(crate) fn plan_delete(host: &Host, bridge: &str) -> Result<Vec<FileContents>, Error> {
    let mut files = networkd::delete(host, bridge);
    files.extend(ifupdown::delete(host, bridge)?);
    Ok(files)
}
