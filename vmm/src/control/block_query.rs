//! What there is to know of disks and block nodes.

use serde_json::{Value, json};
use strata_block::{Cache, Disk, Format, Limits};
use strata_qmp::{Commands, Error, NoArguments};

use super::{Control, qom_path};
use crate::config::DiskConfig;
use crate::devices::OpenDisk;

pub(super) fn add(commands: Commands<Control>) -> Commands<Control> {
    commands
        .with("query-block", Control::query_block)
        .with("query-blockstats", Control::query_blockstats)
        .with("query-named-block-nodes", Control::query_nodes)
}

impl Control {
    fn query_block(&mut self, _: NoArguments) -> Result<Value, Error> {
        let disks = self.parts.disks.list().into_iter();
        let disks = disks.map(|disk| {
            let node = disk.node.as_deref();
            let limits = disk.control.limits();
            let inserted = medium(&disk.config, disk.control.disk(), node, limits);
            json!({
                "device": device_name(&disk),
                "qdev": qom_path(&disk.id),
                "type": "unknown",
                "removable": false,
                "locked": false,
                "io-status": if disk.control.parked() == 0 { "ok" } else { "failed" },
                "inserted": inserted,
            })
        });
        Ok(disks.collect())
    }

    fn query_nodes(&mut self, _: NoArguments) -> Result<Value, Error> {
        let nodes = self.parts.disks.nodes().into_iter();
        let nodes = nodes.filter_map(|node| {
            let name = Some(node.name.as_str());
            let disk = node.disk.as_deref()?;
            Some(medium(&node.config, disk, name, Limits::default()))
        });
        Ok(nodes.collect())
    }

    fn query_blockstats(&mut self, _: NoArguments) -> Result<Value, Error> {
        let disks = self.parts.disks.list().into_iter();
        let disks = disks.map(|disk| {
            let stats = disk.control.stats();
            let unmapped = (stats.discard, stats.write_zeroes);
            json!({
                "device": device_name(&disk),
                "qdev": qom_path(&disk.id),
                "node-name": disk.node,
                "stats": {
                    "rd_bytes": stats.read.bytes,
                    "wr_bytes": stats.write.bytes + unmapped.1.bytes,
                    "unmap_bytes": unmapped.0.bytes,
                    "rd_operations": stats.read.requests,
                    "wr_operations": stats.write.requests + unmapped.1.requests,
                    "flush_operations": stats.flush.requests,
                    "unmap_operations": unmapped.0.requests,
                    "failed_rd_operations": stats.read.failed,
                    "failed_wr_operations": stats.write.failed + unmapped.1.failed,
                    "failed_flush_operations": stats.flush.failed,
                    "failed_unmap_operations": unmapped.0.failed,
                },
            })
        });
        Ok(disks.collect())
    }
}

/// A disk that shows a node has none of QEMU's older names.
fn device_name(disk: &OpenDisk) -> &str {
    match disk.node {
        Some(_) => "",
        None => &disk.id,
    }
}

/// QAPI's `BlockDeviceInfo`.
fn medium(config: &DiskConfig, disk: &Disk, node: Option<&str>, limits: Limits) -> Value {
    let image = disk.nodes().next().and_then(|node| node.as_qcow2());
    let format = match (image, config.format) {
        (Some(_), _) => "qcow2",
        (None, Some(Format::Luks)) => "luks",
        _ => "raw",
    };
    json!({
        "file": config.path,
        "node-name": node,
        "ro": disk.read_only(),
        "drv": format,
        "encrypted": disk.is_encrypted(),
        "backing_file_depth": disk.nodes().count().saturating_sub(1),
        "detect_zeroes": "off",
        "bps": limits.bps, "bps_rd": 0, "bps_wr": 0,
        "iops": limits.iops, "iops_rd": 0, "iops_wr": 0,
        "write_threshold": 0,
        "cache": {
            "writeback": true,
            "direct": config.cache == Cache::Direct,
            "no-flush": config.cache == Cache::Unsafe,
        },
        "image": {
            "filename": config.path,
            "format": format,
            "virtual-size": disk.size(),
        },
    })
}
