//! Counts code: lines that hold a token, without tests, comments and blank lines.

use std::collections::BTreeMap;

use super::{
    imports::CrateFiles,
    lexer,
    workspace::{File, Workspace},
};

/// The code lines of each crate that users run. Files that only tests include are left out.
pub(super) fn code_lines(workspace: &Workspace) -> BTreeMap<&str, usize> {
    let mut sizes = BTreeMap::new();
    for name in workspace.crates() {
        let lines: usize = CrateFiles::of(workspace, name)
            .files()
            .filter(|file| file.is_product())
            .map(|file| lexer::code_lines(&file.tokens()).len())
            .sum();
        if lines > 0 {
            sizes.insert(name, lines);
        }
    }
    sizes
}

/// The code lines of one file, without its tests.
pub(super) fn of_file(file: &File) -> usize {
    lexer::code_lines(&file.tokens()).len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_that_users_run_are_counted() {
        let workspace = Workspace::of(&[
            ("crates/a/Cargo.toml", ""),
            ("crates/a/src/lib.rs", "mod b;\n#[cfg(test)]\nmod checks;\n"),
            ("crates/a/src/b.rs", "// why\nfn b() {}\n"),
            ("crates/a/src/checks.rs", "fn c() {}\nfn d() {}\n"),
            ("crates/a/tests/e.rs", "fn e() {}\n"),
            ("crates/kms-testkit/Cargo.toml", ""),
            ("crates/kms-testkit/src/lib.rs", "fn f() {}\n"),
        ]);
        assert_eq!(code_lines(&workspace), BTreeMap::from([("a", 2)]));
    }
}
