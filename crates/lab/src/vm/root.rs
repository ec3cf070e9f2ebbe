//! The first root of a VM that mounts nothing of this machine's: the programs that are wanted in it, with the libraries that they are linked
//! with, and Python where they are written in it. QEMU cannot move a guest that has a 9p share mounted; such a one it can.

use crate::process::read;
use crate::vm::cpio::Archive;
use crate::vm::kernel::Kernel;
use anyhow::{Context, Result};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Its disks, the port of the agent, and a file system.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "virtio_rng", "virtio_scsi", "sd_mod", "sg", "crc32c_generic", "ext4"];
/// What its first process needs before it has mounted anything.
const DIRECTORIES: &[&str] = &["bin", "dev", "proc", "sys", "modules", "root", "run", "tmp", "var/run"];
/// Where programs are looked for.
const PLACES: &[&str] = &["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
/// Parts of Python's own library that no program here asks for.
const UNUSED: &[&str] =
    &["test", "idlelib", "lib2to3", "ensurepip", "pydoc_data", "tkinter", "unittest", "distutils"];

/// What is in it besides busybox and the agent.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Programs that are installed on this machine.
    pub programs: &'static [&'static str],
    /// Directories of this machine, with all that is in them.
    pub directories: &'static [&'static str],
    /// Python, and its modules of these names as Debian installs them.
    pub python: Option<&'static [&'static str]>,
}

/// Builds it; the agent is in the directory `ours`.
///
/// # Errors
/// If a program, a module or a library is missing.
pub(crate) fn build(kernel: &Kernel, own: &Own, ours: &Path) -> Result<Vec<u8>> {
    let mut root = Root::default();
    DIRECTORIES.iter().for_each(|path| root.directory(Path::new(path)));
    root.copy_to(Path::new("/bin/busybox"), "bin/busybox").context("package busybox-static")?;
    root.archive.file("init", include_bytes!("own.sh"), true);
    root.modules(kernel)?;
    let agent = ours.join("tenure-lab");
    root.copy_to(&agent, "lab/programs/tenure-lab")?;
    root.linked.push(agent);
    for name in own.programs {
        root.program(name)?;
    }
    for path in own.directories {
        root.tree(Path::new(path))?;
    }
    if let Some(modules) = own.python {
        root.python(modules)?;
    }
    root.libraries()?;
    Ok(root.archive.finish())
}

#[derive(Debug, Default)]
struct Root {
    archive: Archive,
    there: BTreeSet<PathBuf>,
    /// What may be linked with libraries.
    linked: Vec<PathBuf>,
}

impl Root {
    /// A directory with those above it.
    fn directory(&mut self, path: &Path) {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || !self.there.insert(path.to_owned()) {
            return;
        }
        if let Some(above) = path.parent() {
            self.directory(above);
        }
        self.archive.directory(&path.display().to_string());
    }

    /// A file of this machine's, at the same place.
    fn copy(&mut self, file: &Path) -> Result<()> {
        self.copy_to(file, &file.display().to_string())
    }

    fn copy_to(&mut self, file: &Path, place: &str) -> Result<()> {
        let place = Path::new(place.trim_start_matches('/'));
        if self.there.contains(place) {
            return Ok(());
        }
        let content = std::fs::read(file).with_context(|| file.display().to_string())?;
        place.parent().into_iter().for_each(|above| self.directory(above));
        self.there.insert(place.to_owned());
        self.archive.file(&place.display().to_string(), &content, true);
        Ok(())
    }

    fn program(&mut self, name: &str) -> Result<()> {
        let mut places = PLACES.iter().map(|place| Path::new(place).join(name));
        let file = places.find(|file| file.is_file()).with_context(|| format!("{name} is not installed"))?;
        self.copy(&file)?;
        self.linked.push(file);
        Ok(())
    }

    /// Everything below a directory, links to files as files.
    fn tree(&mut self, top: &Path) -> Result<()> {
        for entry in std::fs::read_dir(top).with_context(|| top.display().to_string())? {
            let path = entry?.path();
            let is_unused = path.file_name().is_some_and(|name| UNUSED.iter().any(|unused| name == *unused));
            match std::fs::metadata(&path) {
                Ok(found) if found.is_dir() && !is_unused => self.tree(&path)?,
                Ok(found) if found.is_file() => self.copy(&path)?,
                _ => continue,
            }
            if path.extension().is_some_and(|extension| extension == "so") {
                self.linked.push(path);
            }
        }
        Ok(())
    }

    /// Debian's Python, whichever other is in the path here.
    fn python(&mut self, modules: &[&str]) -> Result<()> {
        self.program("python3")?;
        let ask = "import sysconfig; print(sysconfig.get_path('stdlib'))";
        self.tree(Path::new(read(Command::new("/usr/bin/python3").args(["-c", ask]))?.trim()))?;
        let packages = Path::new("/usr/lib/python3/dist-packages");
        for module in modules {
            self.tree_or_object(packages, module)?;
        }
        Ok(())
    }

    /// A module is a directory, or a shared object whose name has a version in it.
    fn tree_or_object(&mut self, packages: &Path, module: &str) -> Result<()> {
        let directory = packages.join(module);
        if directory.is_dir() {
            return self.tree(&directory);
        }
        let begin = format!("{module}.");
        let is_it = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.starts_with(&begin) && name.ends_with(".so")
        };
        let mut files = std::fs::read_dir(packages)?.filter_map(Result::ok).map(|entry| entry.path());
        let file = files.find(is_it).with_context(|| format!("Python's {module} is not installed"))?;
        self.copy(&file)?;
        self.linked.push(file);
        Ok(())
    }

    fn modules(&mut self, kernel: &Kernel) -> Result<()> {
        let mut order = String::new();
        for (name, content) in kernel.modules(MODULES)? {
            self.archive.file(&format!("modules/{name}"), &content, false);
            order.push_str(&name);
            order.push('\n');
        }
        self.archive.file("modules/order", order.as_bytes(), false);
        Ok(())
    }

    fn libraries(&mut self) -> Result<()> {
        let files = std::mem::take(&mut self.linked);
        // What is linked with nothing is an error to it.
        let told = Command::new("ldd").args(&files).output().context("ldd")?;
        for library in needed(&String::from_utf8_lossy(&told.stdout)) {
            self.copy(Path::new(library))?;
        }
        Ok(())
    }
}

/// The libraries that ldd names.
fn needed(told: &str) -> Vec<&str> {
    let path = |line| -> Option<&str> {
        let (names, _) = str::rsplit_once(line, " (0x")?;
        names.split_whitespace().last().filter(|path| path.starts_with('/'))
    };
    told.lines().filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_taken_from_where_they_were_found() {
        let told = "/bin/a:\n\tlinux-vdso.so.1 (0x0)\n\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\t/lib64/ld-linux.so (0x2)\n\
                    /bin/b:\n\tnot a dynamic executable\n\tlibx.so => not found\n";
        assert_eq!(needed(told), ["/lib/libc.so.6", "/lib64/ld-linux.so"]);
    }

    #[test]
    fn a_file_is_there_once_and_after_the_directories_above_it() {
        let mut root = Root::default();
        root.copy(Path::new("/proc/self/comm")).unwrap();
        root.copy_to(Path::new("/proc/self/stat"), "/proc/self/comm").unwrap();
        let all = root.archive.finish();
        let at = |name: &str| {
            let name = [name.as_bytes(), b"\0"].concat();
            let places = all.windows(name.len()).enumerate().filter(|(_, window)| *window == name);
            places.map(|(at, _)| at).collect::<Vec<_>>()
        };
        let found: Vec<_> = ["proc", "proc/self", "proc/self/comm"].map(at).concat();
        assert!(found.len() == 3 && found.is_sorted(), "{found:?}");
    }
}
