//! The memory of a host from one run to the next: since when the slots of a device have looked as they do.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tracing::debug;

/// The first line of a file. A file with another first line is not ours.
const FORMAT: &str = "kms-rotation sight 2";
/// The most bytes of a file: three devices with 32 slots each need less.
const MOST_BYTES: u64 = 64 * 1024;

/// How long the key slots of an OSD have been seen unchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "a store makes it, and these are all its facts")]
pub struct Unchanged {
    /// The time since the first look. Zero if this is the first look, or the first after a change.
    pub time: Duration,
    /// The grace period of the run that had the first look.
    pub grace: Duration,
}

/// Keeps since when the key slots of an OSD have looked as they do.
///
/// A rotation removes a leftover slot only after it has seen the slots unchanged for long enough. With a store, that
/// time may have passed between two runs; without one, the run itself has to wait.
pub trait SightStore: Send + Sync {
    /// Returns how long the OSD whose first device has this LUKS UUID has been seen unchanged, and keeps `sight` and
    /// `grace` if `sight` is not the one that was kept before. `grace` is the grace period of the calling run.
    ///
    /// The time is that of a clock which is never set. `None` if the store cannot keep a sight; the caller then has
    /// to wait itself.
    fn unchanged_for(&self, uuid: &str, sight: &str, grace: Duration) -> Option<Unchanged>;
}

/// A store that keeps nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unkept;

impl SightStore for Unkept {
    fn unchanged_for(&self, _: &str, _: &str, _: Duration) -> Option<Unchanged> {
        None
    }
}

/// A store in a folder of the host, with one file for each OSD. The folder should not survive a restart of the host
/// (`/run`).
///
/// A file that is missing, damaged, of another user, or from before the last start of the host counts as no look at
/// all: then the time begins anew. The files hold no secret.
#[derive(Clone, Debug)]
pub struct SightFolder {
    folder: PathBuf,
    clock: fn() -> io::Result<SinceBoot>,
}

/// A moment, as the time since the last start of the host. Setting the clock of the host does not change it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct SinceBoot {
    /// The identifier that the kernel gave to this start.
    boot: String,
    time: Duration,
}

impl SinceBoot {
    fn now() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        // Seconds since the start, time in suspend included (proc_uptime(5)).
        let uptime = fs::read_to_string("/proc/uptime")?;
        let seconds = uptime.split_whitespace().next().and_then(|text| text.parse().ok());
        let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(Self { boot, time: time.ok_or(io::ErrorKind::InvalidData)? })
    }
}

impl SightFolder {
    /// A store in this folder, which is created when it is needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), clock: SinceBoot::now }
    }

    fn look(&self, uuid: &str, sight: &str, grace: Duration) -> io::Result<Unchanged> {
        if uuid.is_empty() || !uuid.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the LUKS UUID is not a name for a file",
            ));
        }
        let now = (self.clock)()?;
        let path = self.folder.join(uuid);
        if let Some(known) = read(&path).and_then(|text| parse(&text, &now, sight)) {
            return Ok(known);
        }
        match DirBuilder::new().mode(0o700).create(&self.folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let SinceBoot { boot, time } = &now;
        let text = format!(
            "{FORMAT}\nboot {boot}\nsince {}\ngrace {}\n{sight}",
            time.as_millis(),
            grace.as_millis()
        );
        // A name of its own for each process: two runs may write at the same time.
        let draft = self.folder.join(format!(".{uuid}.{}", std::process::id()));
        let _none = fs::remove_file(&draft);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&draft)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&draft, &path));
        if written.is_err() {
            let _none = fs::remove_file(&draft);
        }
        written.map(|()| Unchanged { time: Duration::ZERO, grace })
    }
}

impl SightStore for SightFolder {
    fn unchanged_for(&self, uuid: &str, sight: &str, grace: Duration) -> Option<Unchanged> {
        match self.look(uuid, sight, grace) {
            Ok(known) => Some(known),
            Err(error) => {
                debug!(folder = %self.folder.display(), %error, "what was seen of the key slots is not kept");
                None
            }
        }
    }
}

/// Reads a file that this user alone can write to. `None` if it is anything else.
fn read(path: &Path) -> Option<String> {
    let before = fs::symlink_metadata(path).ok()?;
    let file = OpenOptions::new().read(true).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    let same = (before.dev(), before.ino()) == (metadata.dev(), metadata.ino());
    let ours = metadata.uid() == fs::metadata("/proc/self").ok()?.uid() && metadata.mode() & 0o022 == 0;
    if !(same && ours && metadata.is_file()) {
        return None;
    }
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

/// Returns how long this sight has been seen. `None` if the file holds another sight, or a moment that is not of the
/// time since the last start of the host.
fn parse(text: &str, now: &SinceBoot, sight: &str) -> Option<Unchanged> {
    let mut lines = text.splitn(5, '\n');
    let format = lines.next()?;
    let boot = lines.next()?.strip_prefix("boot ")?;
    let since = Duration::from_millis(lines.next()?.strip_prefix("since ")?.parse().ok()?);
    let grace = Duration::from_millis(lines.next()?.strip_prefix("grace ")?.parse().ok()?);
    let whole = format == FORMAT && boot == now.boot && since <= now.time && lines.next()? == sight;
    whole.then(|| Unchanged { time: now.time.saturating_sub(since), grace })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const UUID: &str = "8f2ab9a1-3b5e-4c0c-9a0e-5d5a1f6d7e11";

    fn at(boot: &str, seconds: u64) -> io::Result<SinceBoot> {
        Ok(SinceBoot { boot: boot.to_owned(), time: Duration::from_secs(seconds) })
    }

    const GRACE: Duration = Duration::from_secs(600);

    fn seen(store: &SightFolder, uuid: &str, sight: &str) -> Option<Duration> {
        store.unchanged_for(uuid, sight, GRACE).map(|known| known.time)
    }

    fn store(folder: &Path, clock: fn() -> io::Result<SinceBoot>) -> SightFolder {
        SightFolder { folder: folder.join("kms"), clock }
    }

    #[test]
    fn the_time_counts_from_the_first_look_and_anew_after_a_change_or_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let seconds = |store: &SightFolder, sight: &str| seen(store, UUID, sight).unwrap().as_secs();
        assert_eq!(seconds(&store(folder.path(), || at("a", 100)), "one"), 0);
        assert_eq!(seconds(&store(folder.path(), || at("a", 150)), "one"), 50);
        assert_eq!(seconds(&store(folder.path(), || at("a", 160)), "one"), 60, "a look does not restart it");
        assert_eq!(seconds(&store(folder.path(), || at("a", 200)), "two"), 0, "a change");
        assert_eq!(seconds(&store(folder.path(), || at("b", 900)), "two"), 0, "a restart");
        assert_eq!(seconds(&store(folder.path(), || at("b", 800)), "two"), 0, "a clock that goes back");
        assert_eq!(seconds(&store(folder.path(), || at("b", 801)), "two"), 1);
        let other = store(folder.path(), || at("b", 900));
        assert_eq!(seen(&other, "other", "two"), Some(Duration::ZERO), "another device");
    }

    #[test]
    fn the_grace_period_of_the_first_look_is_kept_until_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let store = store(folder.path(), || at("a", 100));
        let grace = |sight: &str, hours: u64| {
            store.unchanged_for(UUID, sight, Duration::from_secs(hours * 3600)).unwrap().grace.as_secs()
                / 3600
        };
        assert_eq!([grace("one", 2), grace("one", 0), grace("two", 1), grace("two", 2)], [2, 2, 1, 1]);
    }

    #[test]
    fn a_damaged_or_foreign_file_counts_as_no_look() {
        let folder = tempfile::tempdir().unwrap();
        let late = store(folder.path(), || at("a", 500));
        let path = late.folder.join(UUID);
        let spoil: [&dyn Fn(); 5] = [
            &|| fs::write(&path, "kms-rotation sight 2\nboot a\nsince ").unwrap(),
            &|| fs::write(&path, [0xFF; 10]).unwrap(),
            &|| fs::write(&path, "kms-rotation sight 1\nboot a\nsince 1000\none").unwrap(),
            &|| fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap(),
            &|| {
                let elsewhere = folder.path().join("elsewhere");
                fs::rename(&path, &elsewhere).unwrap();
                symlink(&elsewhere, &path).unwrap();
            },
        ];
        for (number, spoil) in spoil.iter().enumerate() {
            let early = store(folder.path(), || at("a", 1));
            let _none = fs::remove_file(&path);
            assert_eq!(seen(&early, UUID, "one"), Some(Duration::ZERO));
            assert_eq!(seen(&late, UUID, "one").unwrap().as_secs(), 499);
            spoil();
            assert_eq!(seen(&late, UUID, "one"), Some(Duration::ZERO), "{number}");
            assert!(!path.is_symlink(), "the file is whole again");
        }
    }

    #[test]
    fn the_files_are_for_their_owner_alone_and_the_real_clock_runs() {
        let folder = tempfile::tempdir().unwrap();
        let store = SightFolder::new(folder.path().join("kms"));
        let first = seen(&store, UUID, "one").unwrap();
        assert!(first.is_zero() && seen(&store, UUID, "one").unwrap() < Duration::from_secs(60));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&store.folder), mode(&store.folder.join(UUID))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&store.folder).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn a_store_that_cannot_keep_says_so() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(seen(&SightFolder::new(folder.path().join("no/such")), UUID, "one"), None);
        let store = SightFolder::new(folder.path().join("kms"));
        for uuid in ["", "../escape", "a/b", "."] {
            assert_eq!(seen(&store, uuid, "one"), None, "{uuid}");
        }
        assert_eq!(Unkept.unchanged_for(UUID, "one", GRACE), None);
    }
}
