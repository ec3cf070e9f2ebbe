//! The archive that Linux unpacks as its initial root: "newc" cpio (Linux, early-userspace/buffer-format).
//!
//! Pure; used by `initramfs`. Every number is eight hexadecimal digits; names and contents are padded to four bytes.

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// An archive that grows file by file. A directory must come before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// Adds a directory.
    pub(crate) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, &[]);
    }

    /// Adds a file; `executable` decides between 0755 and 0644.
    pub(crate) fn file(&mut self, path: &str, content: &[u8], executable: bool) {
        self.entry(path, REGULAR | if executable { 0o755 } else { 0o644 }, content);
    }

    /// The whole archive, trailer included.
    #[must_use]
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let name_size = path.len() + 1;
        let header = [self.entries, mode, 0, 0, 1, 0];
        self.bytes.extend_from_slice(b"070701");
        header.iter().for_each(|number| self.number(*number as usize));
        self.number(content.len());
        (0..4).for_each(|_| self.number(0));
        self.number(name_size);
        self.number(0);
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn number(&mut self, number: usize) {
        self.bytes.extend_from_slice(format!("{number:08X}").as_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_has_thirteen_numbers_and_everything_is_aligned() {
        let mut archive = Archive::default();
        archive.file("init", b"hello", true);
        let bytes = archive.finish();
        let header = "070701000000010000\
                      81ED00000000000000000000000100000000\
                      0000000500000000000000000000000000000000\
                      0000000500000000";
        assert_eq!(std::str::from_utf8(&bytes[..110]).unwrap(), header);
        assert_eq!(&bytes[110..124], b"init\0\0hello\0\0\0");
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }

    #[test]
    fn cpio_of_the_distribution_reads_what_is_written_where_it_is_installed() {
        let mut archive = Archive::default();
        archive.directory("modules");
        archive.file("modules/order", b"a\n", false);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), archive.finish()).unwrap();
        let list = format!("busybox cpio -t <{} 2>/dev/null", file.path().display());
        let output = std::process::Command::new("sh").args(["-c", &list]).output().unwrap();
        if output.status.success() {
            assert_eq!(output.stdout, b"modules\nmodules/order\n");
        }
    }
}
