//! Debian's kernel out of its package, without installing it: the image and the modules in the order of loading.
//!
//! The package's name changes with every update, so it is asked for each time and downloaded once.

use crate::process::read;
use anyhow::{Context, Result, ensure};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// The image that QEMU boots.
    pub(crate) image: PathBuf,
    modules: PathBuf,
    dependencies: HashMap<String, Vec<String>>,
    builtin: String,
}

impl Kernel {
    /// Downloads and unpacks the newest `linux-image-amd64` below `cache`, unless it is there already.
    ///
    /// # Errors
    /// If apt does not know it, the archive cannot be reached, or a program of dpkg or kmod is missing.
    pub(crate) fn fetch(cache: &Path) -> Result<Self> {
        Self::known(cache).or_else(|error| {
            // What apt knows may be missing or out of date; only root can change that.
            read(Command::new("apt-get").args(["update", "-q"])).map_err(|_| error)?;
            Self::known(cache)
        })
    }

    fn known(cache: &Path) -> Result<Self> {
        let depends = read(Command::new("apt-cache").args(["depends", "linux-image-amd64"]))?;
        let package = depends_on(&depends).context("no kernel package is known to apt")?;
        let tree = cache.join(package);
        if !tree.join("complete").exists() {
            unpack(package, &tree)?;
            std::fs::write(tree.join("complete"), "")?;
        }
        Self::open(&tree)
    }

    fn open(tree: &Path) -> Result<Self> {
        let version = std::fs::read_dir(tree.join("lib/modules"))?.next().context("no modules")??.file_name();
        let modules = tree.join("lib/modules").join(&version);
        let image = tree.join("boot").join(format!("vmlinuz-{}", version.to_string_lossy()));
        let dependencies = parse_dependencies(&std::fs::read_to_string(modules.join("modules.dep"))?);
        let builtin = std::fs::read_to_string(modules.join("modules.builtin"))?;
        Ok(Self { image, modules, dependencies, builtin })
    }

    /// The modules' names and contents, each after those it needs.
    ///
    /// # Errors
    /// If one is neither there nor built in.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order = Vec::new();
        for name in names {
            match self.dependencies.keys().find(|path| module_name(path) == *name) {
                Some(path) => self.add(path, &mut order),
                None => {
                    let known = self.builtin.lines().any(|path| module_name(path) == *name);
                    ensure!(known, "the kernel has no module {name}");
                }
            }
        }
        order.iter().map(|path| Ok((format!("{}.ko", module_name(path)), self.content(path)?))).collect()
    }

    fn add(&self, path: &str, order: &mut Vec<String>) {
        // modules.dep lists the whole closure, the deepest last.
        let needed = self.dependencies.get(path).into_iter().flatten().rev().map(String::as_str);
        for path in needed.chain([path]) {
            if !order.iter().any(|known| known == path) {
                order.push(path.to_owned());
            }
        }
    }

    fn content(&self, path: &str) -> Result<Vec<u8>> {
        let file = self.modules.join(path);
        let unpacker = match file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => "xz",
            Some("zst") => "zstd",
            _ => return std::fs::read(&file).with_context(|| file.display().to_string()),
        };
        Ok(Command::new(unpacker).arg("-dcq").arg(&file).output()?.stdout)
    }
}

fn depends_on(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.trim().strip_prefix("Depends: "))
}

fn unpack(package: &str, tree: &Path) -> Result<()> {
    std::fs::create_dir_all(tree)?;
    read(Command::new("apt-get").args(["download", "-q", package]).current_dir(tree))?;
    let mut files = std::fs::read_dir(tree)?.filter_map(Result::ok).map(|entry| entry.path());
    let deb = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
    read(Command::new("dpkg").arg("-x").arg(&deb).arg(tree))?;
    std::fs::remove_file(&deb)?;
    let version = std::fs::read_dir(tree.join("lib/modules"))?.next().context("no modules")??.file_name();
    read(Command::new("/sbin/depmod").arg("-b").arg(tree).arg(version)).map(drop)
}

fn parse_dependencies(text: &str) -> HashMap<String, Vec<String>> {
    let line = |line: &str| {
        let (module, needed) = line.split_once(':')?;
        Some((module.to_owned(), needed.split_whitespace().map(str::to_owned).collect()))
    };
    text.lines().filter_map(line).collect()
}

/// "kernel/fs/9p/9p.ko.xz" is "9p"; a hyphen and an underscore are the same to the kernel.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(modules: &str) -> Kernel {
        let builtin = "kernel/fs/ext4.ko\n".to_owned();
        Kernel {
            image: PathBuf::new(),
            modules: PathBuf::new(),
            dependencies: parse_dependencies(modules),
            builtin,
        }
    }

    #[test]
    fn a_module_comes_after_all_it_needs_and_only_once() {
        let kernel = kernel("a/top.ko: b/middle.ko c/low.ko\nb/middle.ko: c/low.ko\nc/low.ko:\n");
        let mut order = Vec::new();
        kernel.add("a/top.ko", &mut order);
        kernel.add("b/middle.ko", &mut order);
        assert_eq!(order, ["c/low.ko", "b/middle.ko", "a/top.ko"]);
    }

    #[test]
    fn a_builtin_module_needs_no_loading_and_an_unknown_one_is_named() {
        let kernel = kernel("");
        assert!(kernel.modules(&["ext4"]).unwrap().is_empty());
        assert!(kernel.modules(&["nosuch"]).unwrap_err().to_string().contains("nosuch"));
    }

    #[test]
    fn names_are_those_of_the_kernel() {
        assert_eq!(module_name("kernel/crypto/crc32c-generic.ko.xz"), "crc32c_generic");
    }

    #[test]
    fn the_package_is_the_one_that_the_metapackage_depends_on() {
        let told = "linux-image-amd64\n  Depends: linux-image-6.1.0-1-amd64\n";
        assert_eq!(depends_on(told), Some("linux-image-6.1.0-1-amd64"));
    }
}
