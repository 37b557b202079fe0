//! The `newc` archive that the kernel takes as an initramfs and that `cpio -i` reads
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory; its parents come first.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[])
    }

    /// Adds a file with these permissions.
    pub fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) -> &mut Self {
        self.entry(path, FILE | permissions, (0, 0), contents)
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes())
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(path, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// Ends the archive and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), contents: &[u8]) -> &mut Self {
        let path = path.trim_start_matches('/');
        self.entries += 1;
        let fields = [
            self.entries,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            contents.len() as u32,
            0, // device that the file was on: major, minor
            0,
            device.0,
            device.1,
            path.len() as u32 + 1,
            0, // checksum, which newc does not use
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(contents);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn layout_of_one_entry() {
        let mut archive = Archive::new();
        archive.file("/a", 0o755, b"hello");
        let bytes = archive.finish();
        let header = "07070100000001000081ed00000000000000000000000100000000\
                      000000050000000000000000000000000000000000000002";
        assert_eq!(&bytes[..102], header.as_bytes().to_vec().as_slice());
        assert_eq!(&bytes[102..117], b"00000000a\0hello");
        assert_eq!(&bytes[120..126], b"070701");
    }

    #[test]
    fn cpio_reads_it_back() {
        let dir = tempfile::tempdir().unwrap();
        let mut archive = Archive::new();
        archive
            .directory("etc")
            .file("etc/x", 0o640, b"one\n")
            .link("y", "etc/x");
        let mut child = Command::new(crate::debian::BUSYBOX)
            .args(["cpio", "-id"])
            .current_dir(dir.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&archive.finish())
            .unwrap();
        assert!(child.wait().unwrap().success());
        assert_eq!(std::fs::read(dir.path().join("y")).unwrap(), b"one\n");
    }
}
