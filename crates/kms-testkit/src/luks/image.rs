//! An image with a LUKS header.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use kms_core::Kek;
use tempfile::TempDir;

/// The search path for cryptsetup.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Options for the cheapest slots.
const CHEAP: [&str; 4] = ["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"];
/// Options for the cheapest slots with argon2id.
pub(super) const CHEAP_ARGON2: [&str; 8] =
    ["--pbkdf", "argon2id", "--pbkdf-force-iterations", "4", "--pbkdf-memory", "32", "--pbkdf-parallel", "1"];
/// Room for eight slots, so that an image has 4 MiB instead of 17.
const SMALL: [&str; 6] = ["--type", "luks2", "--luks2-metadata-size", "16k", "--luks2-keyslots-size", "2m"];
/// Room for the two slots of a rotation, and data behind it at once: the offset is in sectors.
const SMALLEST: [&str; 8] =
    ["--type", "luks2", "--luks2-metadata-size", "16k", "--luks2-keyslots-size", "512k", "--offset", "1088"];
/// The size of an image.
const BYTES: u64 = 4 << 20;
/// The size of an image whose header has the default size, and of an image with LUKS1.
const LARGE_BYTES: u64 = 17 << 20;

/// An image, in its own folder or in a shared one.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    _folder: Option<TempDir>,
}

impl Image {
    /// Formats LUKS2 with `kek` in slot 0 and the cheapest key derivation.
    #[must_use]
    pub fn luks2(kek: &Kek) -> Self {
        Self::formatted(BYTES, kek, &[&SMALL[..], &CHEAP].concat())
    }

    /// The same with room for two slots: 600 KiB, so that 10,000 need 6 GB.
    #[must_use]
    pub fn of_fleet(kek: &Kek) -> Self {
        Self::formatted(600 << 10, kek, &[&SMALLEST[..], &CHEAP].concat())
    }

    /// Formats LUKS2 with `kek` in slot 0 and the cheapest argon2id.
    #[must_use]
    pub fn argon2id(kek: &Kek) -> Self {
        Self::formatted(BYTES, kek, &[&SMALL[..], &CHEAP_ARGON2].concat())
    }

    /// Formats LUKS1 with `kek` in slot 0.
    #[must_use]
    pub fn luks1(kek: &Kek) -> Self {
        let options = ["--type", "luks1", "--pbkdf-force-iterations", "1000"];
        Self::formatted(LARGE_BYTES, kek, &options)
    }

    /// Formats with the defaults of `cryptsetup`: argon2id, at the cost that it benchmarks for this machine. Takes seconds.
    #[must_use]
    pub fn by_default(kek: &Kek) -> Self {
        Self::formatted(LARGE_BYTES, kek, &["--type", "luks2"])
    }

    fn formatted(bytes: u64, kek: &Kek, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = Self { path: folder.path().join("image"), _folder: Some(folder) };
        File::create(&image.path).and_then(|file| file.set_len(bytes)).expect("make the image");
        let key = image.key_file(kek);
        let format = ["luksFormat", "--batch-mode", "--key-file", &key];
        assert_eq!(image.cryptsetup(&[&format[..], options].concat(), &[]), 0, "format the image");
        image
    }

    /// Returns an existing image.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), _folder: None }
    }

    /// Copies the image to `path`, which is quicker than formatting. The same KEK opens both, and both look like the same
    /// device.
    #[must_use]
    pub fn copy(&self, path: impl Into<PathBuf>) -> Self {
        let copy = Self::at(path);
        fs::copy(&self.path, &copy.path).expect("copy the image");
        copy
    }

    /// The path of the image.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All bytes of the image.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).expect("read the image")
    }

    /// Writes the KEK to a file beside the image.
    #[must_use]
    pub fn key_file(&self, kek: &Kek) -> String {
        let path = self.beside(&format!("key-{}", kek.fingerprint()));
        if !path.exists() {
            // Renamed into place: another thread may be about to read it.
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let part = self.beside(&format!("key-part-{}-{count}", std::process::id()));
            fs::write(&part, kek.expose_secret_bytes()).expect("write a key file");
            fs::rename(part, &path).expect("write a key file");
        }
        path.display().to_string()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path.with_file_name(name)
    }

    /// Runs cryptsetup with options, the image, and arguments after it. Returns its exit code.
    pub fn cryptsetup(&self, options: &[&str], after: &[&str]) -> i32 {
        self.run(options, after).0
    }

    /// Runs cryptsetup, and returns its exit code and standard error.
    pub(super) fn run(&self, options: &[&str], after: &[&str]) -> (i32, String) {
        let output = Command::new("cryptsetup")
            .args(options)
            .arg(&self.path)
            .args(after)
            .env_clear()
            .env("PATH", SEARCH_PATH)
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .expect("run cryptsetup");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Adds the cheapest slot. `known` is a KEK that opens any slot.
    pub fn add(&self, known: &Kek, slot: u8, kek: &Kek) {
        self.add_by(&CHEAP, known, slot, kek);
    }

    /// Adds a slot with the cheapest argon2id.
    pub fn add_argon2id(&self, known: &Kek, slot: u8, kek: &Kek) {
        self.add_by(&CHEAP_ARGON2, known, slot, kek);
    }

    fn add_by(&self, costs: &[&str], known: &Kek, slot: u8, kek: &Kek) {
        let (known, new, slot) = (self.key_file(known), self.key_file(kek), slot.to_string());
        let options = ["luksAddKey", "--batch-mode", "--key-file", &known, "--new-key-slot", &slot];
        assert_eq!(self.cryptsetup(&[&options[..], costs].concat(), &[&new]), 0, "add a slot");
    }

    /// Removes a slot. `known` is a KEK that opens another slot.
    pub fn kill(&self, known: &Kek, slot: u8) {
        let (known, slot) = (self.key_file(known), slot.to_string());
        let options = ["luksKillSlot", "--batch-mode", "--key-file", &known];
        assert_eq!(self.cryptsetup(&options, &[&slot]), 0, "remove a slot");
    }

    /// Whether a KEK opens the image.
    #[must_use]
    pub fn opens(&self, kek: &Kek) -> bool {
        let key = self.key_file(kek);
        self.cryptsetup(&["open", "--test-passphrase", "--key-file", &key], &[]) == 0
    }

    /// Whether a KEK opens this slot.
    #[must_use]
    pub fn opens_slot(&self, slot: u8, kek: &Kek) -> bool {
        let (key, slot) = (self.key_file(kek), slot.to_string());
        self.cryptsetup(&["open", "--test-passphrase", "--key-slot", &slot, "--key-file", &key], &[]) == 0
    }

    /// The slots in use. LUKS2 only.
    #[must_use]
    pub fn slots(&self) -> Vec<u8> {
        let output = Command::new("cryptsetup")
            .args(["luksDump", "--dump-json-metadata"])
            .arg(&self.path)
            .env("PATH", SEARCH_PATH)
            .stdin(Stdio::null())
            .output()
            .expect("run cryptsetup");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the metadata of LUKS2");
        let mut slots: Vec<u8> = json["keyslots"]
            .as_object()
            .expect("keyslots")
            .keys()
            .map(|slot| slot.parse().expect("a number"))
            .collect();
        slots.sort_unstable();
        slots
    }

    /// Reads the volume key through any slot that the KEK opens. A rotation does not change it.
    #[must_use]
    pub fn volume_key(&self, kek: &Kek) -> Vec<u8> {
        let (key, out) = (self.key_file(kek), self.beside("volume-key"));
        let to = out.display().to_string();
        let options =
            ["luksDump", "--batch-mode", "--dump-volume-key", "--key-file", &key, "--volume-key-file", &to];
        assert_eq!(self.cryptsetup(&options, &[]), 0, "dump the volume key");
        let volume_key = fs::read(&out).expect("read the volume key");
        fs::remove_file(out).expect("remove the volume key");
        volume_key
    }
}

/// A program that records its calls and then runs cryptsetup.
#[derive(Debug)]
pub struct Wrapper {
    folder: TempDir,
}

impl Wrapper {
    /// Records arguments and environment of each call.
    #[must_use]
    pub fn new() -> Self {
        Self::with("")
    }

    /// Records each call, and runs these lines of shell script first. `$*` are the arguments, `$HERE` is its own folder.
    #[must_use]
    pub fn with(before: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let here = folder.path().display().to_string();
        let real = SEARCH_PATH
            .split(':')
            .map(|place| Path::new(place).join("cryptsetup"))
            .find(|path| path.exists())
            .expect("cryptsetup");
        let script = format!(
            "#!/bin/sh\nHERE='{here}'\nprintf '%s\\n' \"$*\" >> \"$HERE/calls\"\ntr '\\0' '\\n' < /proc/$$/environ \
             >> \"$HERE/environ\"\n{before}\nexec {} \"$@\"\n",
            real.display()
        );
        // Another process writes the file: a file that is open for writing, even in a child of another thread, cannot
        // be run.
        let path = folder.path().join("cryptsetup");
        let mut shell = Command::new("sh")
            .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
            .arg(&path)
            .stdin(Stdio::piped())
            .spawn()
            .expect("run sh");
        shell.stdin.take().expect("a pipe").write_all(script.as_bytes()).expect("write the script");
        assert!(shell.wait().expect("wait for sh").success());
        Self { folder }
    }

    /// The folder of the program, to be put in a search path.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.folder.path().join("cryptsetup")
    }

    /// The arguments of each call, on one line.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.read("calls").lines().map(str::to_owned).collect()
    }

    /// The environments of all calls.
    #[must_use]
    pub fn environ(&self) -> String {
        self.read("environ")
    }

    /// Forgets the calls so far.
    pub fn forget(&self) {
        for name in ["calls", "environ"] {
            let _none = fs::remove_file(self.folder.path().join(name));
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.folder.path().join(name)).unwrap_or_default()
    }
}

impl Default for Wrapper {
    fn default() -> Self {
        Self::new()
    }
}
