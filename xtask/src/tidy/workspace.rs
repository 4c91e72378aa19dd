//! The files that the checks read. They are read once.

use anyhow::Result;
use xshell::{Shell, cmd};

use super::lexer::{self, Token};

/// Crates whose code is only for tests.
const FOR_TESTS: [&str; 2] = ["kms-conformance", "kms-testkit"];

/// One text file of the repository.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) text: String,
}

impl File {
    /// Whether the name ends with `extension`, given without its dot.
    pub(super) fn is(&self, extension: &str) -> bool {
        self.path.rsplit_once('.').is_some_and(|(_, ending)| ending == extension)
    }

    /// The crate and the path below its `src`, for `crates/NAME/src/…`.
    pub(super) fn in_crate(&self) -> Option<(&str, &str)> {
        self.path.strip_prefix("crates/")?.split_once("/src/")
    }

    /// Whether this is Rust code that users run, not only code for tests.
    pub(super) fn is_product(&self) -> bool {
        self.is("rs") && self.in_crate().is_some_and(|(name, _)| !FOR_TESTS.contains(&name))
    }

    /// The tokens of a Rust file without its tests. Empty if the file does not lex; the compiler reports that error.
    pub(super) fn tokens(&self) -> Vec<Token> {
        lexer::tokens(&self.text).unwrap_or_default()
    }
}

/// All text files of the repository that are not generated.
#[derive(Debug, Default)]
pub(super) struct Workspace {
    pub(super) files: Vec<File>,
}

impl Workspace {
    /// Reads every file that git tracks or would track.
    pub(super) fn read(sh: &Shell) -> Result<Self> {
        let list = cmd!(sh, "git ls-files --cached --others --exclude-standard").quiet().read()?;
        let mut files = Vec::new();
        for path in list.lines().filter(|path| sh.path_exists(path)) {
            // Hashes in lock files and certificates in base64 can contain any text.
            let locked =
                ["go.sum", "Cargo.lock", "tests/go/tls/cases.json"].iter().any(|end| path.ends_with(end));
            // Binary files are not UTF-8 and need no check.
            if let (false, Ok(text)) = (locked, sh.read_file(path)) {
                files.push(File { path: path.to_owned(), text });
            }
        }
        Ok(Self { files })
    }

    pub(super) fn get(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// The names of the crates in `crates/`, sorted.
    pub(super) fn crates(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .files
            .iter()
            .filter_map(|file| file.path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml"))
            .filter(|name| !name.contains('/'))
            .collect();
        names.sort_unstable();
        names
    }
}

#[cfg(test)]
impl File {
    pub(super) fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }
}

#[cfg(test)]
impl Workspace {
    /// A workspace with these files.
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        Self { files: files.iter().map(|(path, text)| File::new(path, text)).collect() }
    }
}
