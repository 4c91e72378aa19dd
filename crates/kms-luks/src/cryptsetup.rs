//! The program `cryptsetup`: its path, its environment, its version.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kms_core::{Error, ErrorKind, Result};
use tokio::sync::OnceCell;

use crate::{
    Kdf, Sysfs,
    error::{code, failed},
    process::{self, Call, CommandOutput, Ended, ProcessEnv},
};

/// The name of the program.
const PROGRAM: &str = "cryptsetup";
/// The folders that are searched after the search path.
const FOLDERS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The time limit of one run, as in Rook (rook-behaviour §8.8).
const LIMIT: Duration = Duration::from_secs(90);

/// A release of cryptsetup.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl Version {
    /// The oldest supported release. It has `--dump-json-metadata`, and tests of passphrases without tokens.
    pub const OLDEST: Self = Self { major: 2, minor: 4 };
    /// Since this release a new slot can be made from a named one.
    pub(crate) const NAMED_SOURCE: Self = Self { major: 2, minor: 6 };

    /// Parses the output of `cryptsetup --version`: `cryptsetup 2.6.1 flags: …`.
    fn parse(output: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(output).ok()?;
        let mut numbers = text.strip_prefix("cryptsetup ")?.split_whitespace().next()?.split('.');
        Some(Self { major: numbers.next()?.parse().ok()?, minor: numbers.next()?.parse().ok()? })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The program `cryptsetup` and its settings. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Cryptsetup {
    program: Option<PathBuf>,
    search: OsString,
    env: Vec<(OsString, OsString)>,
    limit: Duration,
    kdf: Kdf,
    sysfs: Sysfs,
    version: Arc<OnceCell<Version>>,
}

impl Cryptsetup {
    /// The program of the system, found in the usual folders, with 90 seconds for each run and the cheapest key
    /// derivation for new slots.
    pub fn new() -> Self {
        Self {
            program: None,
            search: OsString::from(FOLDERS),
            env: Vec::new(),
            limit: LIMIT,
            kdf: Kdf::default(),
            sysfs: Sysfs::new(),
            version: Arc::default(),
        }
    }

    /// Looks for the program in these folders first: a value of `PATH`.
    #[must_use]
    pub fn with_search_path(mut self, path: impl AsRef<OsStr>) -> Self {
        self.search = path.as_ref().to_owned();
        self.search.push(":");
        self.search.push(FOLDERS);
        self.version = Arc::default();
        self
    }

    /// Sets the path of the program.
    #[must_use]
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self.version = Arc::default();
        self
    }

    /// Sets an environment variable of the program, such as `DM_DISABLE_UDEV`. Without this the environment is `PATH`
    /// and `LC_ALL`.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets the time limit of one run of the program.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the key derivation of new slots.
    #[must_use]
    pub fn with_kdf(mut self, kdf: Kdf) -> Self {
        self.kdf = kdf;
        self
    }

    /// Sets the folders in which the kernel lists its devices.
    #[must_use]
    pub fn with_sysfs(mut self, sysfs: Sysfs) -> Self {
        self.sysfs = sysfs;
        self
    }

    /// The time limit of one run.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The key derivation of new slots.
    pub fn kdf(&self) -> Kdf {
        self.kdf
    }

    pub(crate) fn sysfs(&self) -> &Sysfs {
        &self.sysfs
    }

    /// The release of the program. Runs the program once and keeps the result.
    ///
    /// # Errors
    ///
    /// `Unsupported` if there is no such program, or if its release is older than [`Version::OLDEST`].
    pub async fn version(&self) -> Result<Version> {
        let version = self.version.get_or_try_init(async || {
            let answer = self.run(Call::new(["--version"])).await?;
            Version::parse(&answer.output).ok_or_else(|| {
                Error::new(ErrorKind::Protocol, "the output of --version is not that of cryptsetup")
            })
        });
        let version = *version.await?;
        if version < Version::OLDEST {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("cryptsetup {version} is too old: install {} or newer", Version::OLDEST),
            ));
        }
        Ok(version)
    }

    /// Runs cryptsetup.
    pub(crate) async fn run(&self, call: Call) -> Result<CommandOutput> {
        let program = self.located(PROGRAM);
        self.run_program(program.as_deref().unwrap_or_else(|| Path::new(PROGRAM)), call).await
    }

    /// Runs another program, such as dmsetup, in the same way.
    pub(crate) async fn run_program(&self, program: &Path, call: Call) -> Result<CommandOutput> {
        let mut env: Vec<(&OsStr, &OsStr)> =
            self.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())).collect();
        env.push(("PATH".as_ref(), &self.search));
        env.push(("LC_ALL".as_ref(), "C".as_ref()));
        process::run(&ProcessEnv { program, env, limit: self.limit }, call).await
    }

    /// The path of a program. `None` if no folder has it.
    pub(crate) fn located(&self, name: &str) -> Option<PathBuf> {
        match &self.program {
            Some(program) if name == PROGRAM => Some(program.clone()),
            _ => std::env::split_paths(&self.search)
                // A relative folder would find another program in each working folder.
                .filter(|folder| folder.is_absolute())
                .map(|folder| folder.join(name))
                .find(|path| path.is_file()),
        }
    }

    /// The error of a failed run whose cause the caller does not know. Asks for the version, since the program may be
    /// too old. That costs a process, so it happens only after a failure.
    pub(crate) async fn explain(&self, answer: &CommandOutput) -> Error {
        if answer.ended == Ended::Code(code::FAILED)
            && let Err(error) = self.version().await
        {
            return error;
        }
        failed(answer)
    }
}

impl Default for Cryptsetup {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_number() {
        let version = |text: &str| Version::parse(text.as_bytes());
        assert_eq!(version("cryptsetup 2.6.1 flags: UDEV BLKID\n"), Some(Version { major: 2, minor: 6 }));
        assert_eq!(version("cryptsetup 2.10.0-rc0\n"), Some(Version { major: 2, minor: 10 }));
        assert!(version("cryptsetup 2.10.0").unwrap() > Version::OLDEST);
        for text in ["", "cryptsetup", "cryptsetup x.y", "busybox 1.36", "cryptsetup 2"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    #[test]
    fn relative_folders_of_the_search_path_are_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(PROGRAM), "").unwrap();
        let search = format!(".::{}", folder.path().display());
        let located = Cryptsetup::new().with_search_path(search).located(PROGRAM);
        assert_eq!(located, Some(folder.path().join(PROGRAM)));
    }
}
