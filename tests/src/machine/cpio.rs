//! Archives in the format that the Linux kernel unpacks as its first file system: cpio, `newc`.
//!
//! Format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel. The kernel unpacks successive
//! archives on top of one another.

use std::collections::BTreeSet;

/// File types, as in `stat`.
const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An unfinished archive.
#[derive(Clone, Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, and its parent folders. `path` begins without a slash.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.entry(path, FILE | mode, content);
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, LINK | 0o777, target.as_bytes());
    }

    /// Adds a folder.
    pub(super) fn folder(&mut self, path: &str) {
        self.parents(path);
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER | 0o755, &[]);
        }
    }

    /// Returns the finished archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, &[]);
        // The next part begins at a multiple of four bytes.
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/')
            && !self.folders.contains(parent)
        {
            self.folder(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        let size = |length: usize| u32::try_from(length).expect("files of an archive are below 4 GiB");
        let fields = [
            self.inode,
            mode,
            0, // user
            0, // group
            1, // links
            0, // time
            size(content.len()),
            0, // the device it is on: two numbers
            0,
            0, // the device it is: two numbers
            0,
            size(path.len() + 1),
            0, // check sum, not used
        ];
        self.inode += 1;
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Name, mode and content of each entry.
    pub(in crate::machine) fn read(mut bytes: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let field = |number: usize| {
                let text = std::str::from_utf8(&bytes[6 + 8 * number..14 + 8 * number]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, named) = (field(1), field(6) as usize, field(11) as usize);
            let name = String::from_utf8(bytes[110..110 + named - 1].to_vec()).unwrap();
            let content = (110 + named).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(bytes.len(), content);
                return entries;
            }
            entries.push((name, mode, bytes[content..content + size].to_vec()));
            bytes = &bytes[(content + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn entries_are_read_back_with_their_folders_before_them() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"#!/bin/sh");
        archive.file("lib/x/a", 0o644, b"12345");
        archive.file("lib/x/b", 0o600, b"");
        archive.link("bin/sh", "busybox");
        archive.folder("dev");
        let names: Vec<_> = read(&archive.finish())
            .into_iter()
            .map(|(name, mode, content)| (name, format!("{mode:o}"), content.len()))
            .collect();
        let expected = [
            ("init", "100755", 9),
            ("lib", "40755", 0),
            ("lib/x", "40755", 0),
            ("lib/x/a", "100644", 5),
            ("lib/x/b", "100600", 0),
            ("bin", "40755", 0),
            ("bin/sh", "120777", 7),
            ("dev", "40755", 0),
        ];
        assert_eq!(names, expected.map(|(name, mode, size)| (name.to_owned(), mode.to_owned(), size)));
    }
}
