//! The locks on the slots of a device.
//!
//! There are two locks, both on the device itself, since containers share nothing else:
//!
//! - This process holds the first during a rotation. A second process that finds it taken gives up.
//! - This process and every cryptsetup that it starts hold the second. When this process is killed, a cryptsetup that
//!   it has started may still write; the next run waits for its end.
//!
//! Both are locks of open file descriptions, on two bytes far behind the end of any device. `flock` does not fit:
//! cryptsetup itself takes it on images and would wait for our lock for ever, and udev takes it on devices. Locks of
//! the process do not fit either: the process loses them when it closes any descriptor of the device, as every read of
//! the header does.

use std::{
    fs::{File, OpenOptions},
    io::ErrorKind as ErrorKindOfIo,
    os::{
        fd::OwnedFd,
        unix::fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use kms_core::{Error, ErrorKind, Result, Retry};
use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};
use rustix::fs::{major, minor};
use tokio::time::sleep;

use crate::error::not_read;

/// The bytes that are locked, near the largest offset that there is (2^63 - 1).
const OURS: i64 = 0x6b6d_7300_0000_0000;
const CHILDREN: i64 = OURS + 1;
/// The time between two checks whether a cryptsetup of an earlier run has ended.
const LOOK: Duration = Duration::from_millis(20);

/// The exclusive right to change the slots of a device. Dropping it releases the right.
#[derive(Clone, Debug)]
pub struct DeviceLock {
    _held: Arc<Held>,
}

/// The open files that hold the locks.
#[derive(Debug)]
pub(crate) struct Held {
    ours: File,
    children: File,
}

impl Drop for Held {
    fn drop(&mut self) {
        // Release explicitly: a child that is being started for another device holds a copy of all descriptors for a
        // moment.
        let _ignored = set(&self.ours, OURS, libc::F_UNLCK);
    }
}

impl DeviceLock {
    pub(crate) fn new(held: Arc<Held>) -> Self {
        Self { _held: held }
    }
}

impl Held {
    /// Takes both locks. Waits for a cryptsetup that an earlier run has left, up to `limit`.
    ///
    /// # Errors
    ///
    /// `Conflict`, worth another try, if another process holds the first, or if that cryptsetup runs for longer than
    /// `limit`.
    pub(crate) async fn take(path: &Path, limit: Duration) -> Result<Self> {
        Self::open(path)?.locked(limit).await
    }

    fn open(path: &Path) -> Result<Self> {
        Ok(Self { ours: open(path)?, children: open(path)? })
    }

    /// Takes both locks. An error drops the files and so gives up the first lock explicitly: otherwise a child that is
    /// being started for another device could keep it for a moment, and the next attempt would meet a conflict.
    async fn locked(self, limit: Duration) -> Result<Self> {
        if !lock(&self.ours, OURS)? {
            return Err(Error::new(
                ErrorKind::Conflict,
                "another process is at work on the key slots of this device: wait until it ends and try again",
            )
            .retry(Retry::Always));
        }
        let begin = Instant::now();
        while !lock(&self.children, CHILDREN)? {
            if begin.elapsed() >= limit {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "a cryptsetup that an earlier run started on this device has not ended within {limit:?}: find \
                         out why it hangs, and end it"
                    ),
                )
                .retry(Retry::Always));
            }
            sleep(LOOK).await;
        }
        Ok(self)
    }

    /// A descriptor that a child inherits. It shares the open file, so the lock is held until both descriptors are
    /// closed.
    pub(crate) fn for_child(&self) -> Result<OwnedFd> {
        self.children.try_clone().map(OwnedFd::from).map_err(not_read)
    }
}

/// An open file of its own, closed when another program is started.
fn open(path: &Path) -> Result<File> {
    let node = kernel_node(path);
    let path = node.as_deref().unwrap_or(path);
    // The kernel opens a read-only block device for writing, and refuses the write.
    if is_read_only(path) {
        return Err(Error::config(
            "the device is read-only, so its key slots cannot change: make it writable (blockdev --setrw)",
        ));
    }
    // A lock needs write access.
    OpenOptions::new().read(true).write(true).open(path).map_err(|cause| match cause.kind() {
        ErrorKindOfIo::ReadOnlyFilesystem => Error::config(
            "the file system of the image is read-only, so its key slots cannot change: mount it for writing",
        )
        .source(cause),
        _ => not_read(cause),
    })
}

/// Whether the kernel refuses writes to a block device. `false` for other files.
fn is_read_only(path: &Path) -> bool {
    let Some(number) = block_device(path) else { return false };
    let flag = std::fs::read_to_string(sysfs(number, "ro"));
    flag.is_ok_and(|flag| flag.trim() == "1")
}

/// The file in which the kernel describes a block device.
fn sysfs(number: u64, file: &str) -> String {
    format!("/sys/dev/block/{}:{}/{file}", major(number), minor(number))
}

/// The kernel's own node of a block device. `None` if it is not visible in this mount namespace.
///
/// A lock belongs to a node and not to the device behind it, and Rook makes nodes of its own for an OSD (`block-tmp`):
/// a rotation by that node and a rotation by `/dev/sdb` must find the same lock. The pods of Rook have the host's
/// `/dev`.
fn kernel_node(path: &Path) -> Option<PathBuf> {
    let number = block_device(path)?;
    let facts = std::fs::read_to_string(sysfs(number, "uevent")).ok()?;
    let name = facts.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    let node = Path::new("/dev").join(name);
    (block_device(&node) == Some(number)).then_some(node)
}

/// The number of a block device. `None` for other files.
fn block_device(path: &Path) -> Option<u64> {
    let metadata = std::fs::metadata(path).ok()?;
    metadata.file_type().is_block_device().then(|| metadata.rdev())
}

/// Takes a lock. `false` if another process holds it.
fn lock(file: &File, byte: i64) -> Result<bool> {
    match set(file, byte, libc::F_WRLCK) {
        Ok(()) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(cause) => Err(Error::new(ErrorKind::Unexpected, "the device cannot be locked").source(cause)),
    }
}

fn set(file: &File, byte: i64, kind: i32) -> nix::Result<()> {
    let range = libc::flock {
        l_type: i16::try_from(kind).map_err(|_cause| Errno::EINVAL)?,
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: byte,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_OFD_SETLK(&range)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_lock_is_refused_until_the_first_is_dropped() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let limit = Duration::ZERO;
        let first = Held::take(image.path(), limit).await.unwrap();
        // Closing another descriptor of the file does not release the lock.
        drop(File::open(image.path()).unwrap());
        let error = Held::take(image.path(), limit).await.unwrap_err();
        assert_eq!((error.kind(), error.retryable()), (ErrorKind::Conflict, Retry::Always));
        assert!(error.to_string().contains("another process"), "{error}");
        drop(first);
        Held::take(image.path(), Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn a_lock_that_a_child_holds_is_waited_for() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let first = Held::take(image.path(), Duration::ZERO).await.unwrap();
        let child = first.for_child().unwrap();
        drop(first);
        let error = Held::take(image.path(), Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("earlier run"), "{error}");
        let waiting = Held::take(image.path(), Duration::from_secs(60));
        let (held, ()) = tokio::join!(waiting, async { drop(child) });
        held.unwrap();
    }

    #[tokio::test]
    async fn a_failed_wait_gives_up_the_first_lock_although_a_copy_of_its_descriptor_is_open() {
        let image = tempfile::NamedTempFile::new().unwrap();
        let first = Held::take(image.path(), Duration::ZERO).await.unwrap();
        let child = first.for_child().unwrap();
        drop(first);
        let second = Held::open(image.path()).unwrap();
        // The copy that a child has between fork and exec.
        let _copy = second.ours.try_clone().unwrap();
        let error = second.locked(Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("earlier run"), "{error}");
        drop(child);
        Held::take(image.path(), Duration::from_secs(60)).await.unwrap();
    }

    #[tokio::test]
    async fn a_device_that_cannot_be_opened_cannot_be_locked() {
        let error = Held::take(Path::new("/nonexistent/device"), Duration::ZERO).await.unwrap_err();
        assert!(error.to_string().contains("no such device"), "{error}");
    }
}
