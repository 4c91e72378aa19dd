//! Picks kernel modules from an unpacked kernel, with all their dependencies.
//!
//! `depmod` knows dependencies only after an installation, but each module names its own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use xshell::{Shell, cmd};

/// Copies the modules `wanted` and their dependencies from `lib` (`lib/modules/VERSION`) to `into`, as `NN-name.ko` in
/// load order. Skips modules that are built into the kernel.
///
/// # Errors
///
/// If a module is neither present nor built in, or cannot be read.
pub(super) fn copy(sh: &Shell, lib: &Path, wanted: &[&str], into: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    find(lib, &mut files)?;
    let builtin = sh.read_file(lib.join("modules.builtin"))?;
    let builtin: Vec<String> = builtin.lines().map(|line| name(Path::new(line))).collect();
    let mut order = Vec::new();
    for module in wanted {
        add(sh, &name(Path::new(module)), &files, &builtin, &mut order)?;
    }
    for (number, (name, bytes)) in order.iter().enumerate() {
        sh.write_file(into.join(format!("{number:02}-{name}.ko")), bytes)?;
    }
    Ok(())
}

/// Adds a module after its dependencies.
fn add(
    sh: &Shell,
    module: &str,
    files: &BTreeMap<String, PathBuf>,
    builtin: &[String],
    order: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    if order.iter().any(|(name, _)| name == module) || builtin.iter().any(|name| name == module) {
        return Ok(());
    }
    let path = files.get(module).with_context(|| format!("the kernel has no module {module}"))?;
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => sh.read_binary_file(path)?,
        Some("xz") => cmd!(sh, "xz --decompress --stdout {path}").quiet().output()?.stdout,
        _ => bail!("the module {} has an unknown compression", path.display()),
    };
    for below in depends(&bytes) {
        add(sh, &below, files, builtin, order)?;
    }
    order.push((module.to_owned(), bytes));
    Ok(())
}

/// The dependencies of this module: the entry `depends` of its information, separated by commas.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = module.get(at + key.len()..).unwrap_or_default();
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value).into_owned();
    names.split(',').filter(|name| !name.is_empty()).map(|below| name(Path::new(below))).collect()
}

/// Finds every module below `folder`, by name.
fn find(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            find(&path, files)?;
        } else if path.file_name().is_some_and(|name| name.to_string_lossy().contains(".ko")) {
            files.insert(name(&path), path);
        }
    }
    Ok(())
}

/// The name of a module, from its file. The kernel treats `-` and `_` alike.
fn name(path: &Path) -> String {
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_depends_on() {
        let module = b"\x7fELF\0license=GPL\0depends=dm-mod,cbc\0name=dm_crypt\0";
        assert_eq!(depends(module), ["dm_mod", "cbc"]);
        assert_eq!(depends(b"\x7fELF\0depends=\0name=x\0"), Vec::<String>::new());
        assert_eq!(depends(b"nothing"), Vec::<String>::new());
    }

    #[test]
    fn modules_are_copied_after_what_they_need_and_without_what_is_built_in() {
        let sh = Shell::new().unwrap();
        let folder = sh.create_temp_dir().unwrap();
        let (lib, into) = (folder.path().join("lib"), folder.path().join("into"));
        sh.create_dir(&into).unwrap();
        sh.write_file(lib.join("kernel/dm-crypt.ko"), "\0depends=dm-mod,aes\0").unwrap();
        sh.write_file(lib.join("kernel/md/dm-mod.ko"), "\0depends=\0").unwrap();
        sh.write_file(lib.join("modules.builtin"), "kernel/crypto/aes.ko\n").unwrap();
        copy(&sh, &lib, &["dm_crypt", "dm-mod"], &into).unwrap();
        let names: Vec<_> = sh.read_dir(&into).unwrap().into_iter().map(|path| name(&path)).collect();
        assert_eq!(names, ["00_dm_mod", "01_dm_crypt"]);
        let error = copy(&sh, &lib, &["nosuch"], &into).unwrap_err();
        assert!(error.to_string().contains("nosuch"), "{error}");
    }
}
