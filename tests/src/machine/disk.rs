//! A disk with a volatile cache, like a drive: a power cut may lose unflushed writes, in any order.
//!
//! Killing QEMU alone would lose none of the guest's finished writes, since by then they are in the page cache of this
//! machine. So this module is the disk: QEMU reaches it as a network block device (NBD, doc/proto.md of that project)
//! over a socket. Flushed writes survive a cut. Of each sector that was written since the last flush, a cut keeps any
//! one of the versions that the sector had.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// The unit that a drive writes atomically.
const SECTOR: usize = 512;

/// The largest request that the disk accepts; QEMU's own limit is 32 MiB.
const MAX_REQUEST: usize = 32 << 20;

/// The maximum delay between the end of QEMU and the end of its connection.
const HANG_UP: Duration = Duration::from_secs(10);

/// The fate of unflushed sectors in a power cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Loss {
    /// All unflushed writes are lost.
    All,
    /// Each sector keeps any version that it had, chosen by this seed: a drive may write in any order.
    Any(u64),
    /// Nothing is lost, like with a drive whose cache has a battery.
    None,
}

/// The content of the drive.
#[derive(Default)]
struct Content {
    /// The content of the medium.
    durable: Vec<u8>,
    /// The content that reads return.
    current: Vec<u8>,
    /// The versions of each sector since the last flush, the oldest first.
    pending: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    connections: usize,
    flushes: u64,
    writes: u64,
    /// The number of the first write that the disk ignores, together with everything after it.
    stop_at: Option<u64>,
    stopped: bool,
}

/// A disk for one machine at a time. It outlives the machines.
#[derive(Clone)]
pub struct Disk {
    socket: PathBuf,
    shared: Arc<(Mutex<Content>, Condvar)>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Disk {
    /// An empty disk of this size, served at `NAME.sock` in `folder`.
    ///
    /// # Errors
    ///
    /// If the socket cannot be created.
    pub fn new(folder: &Path, name: &str, mebibytes: usize) -> Result<Self> {
        let bytes = mebibytes << 20;
        let content = Content { durable: vec![0; bytes], current: vec![0; bytes], ..Content::default() };
        let socket = folder.join(format!("{name}.sock"));
        let listener =
            UnixListener::bind(&socket).with_context(|| format!("listen at {}", socket.display()))?;
        let disk = Self { socket, shared: Arc::new((Mutex::new(content), Condvar::new())) };
        let shared = Arc::clone(&disk.shared);
        // The thread ends with the process; it holds a few megabytes.
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { break };
                lock(&shared).connections += 1;
                let connection = Arc::clone(&shared);
                std::thread::spawn(move || {
                    // A connection ends with an error when a test kills QEMU.
                    let _ = serve(stream, &connection);
                    lock(&connection).connections -= 1;
                    connection.1.notify_all();
                });
            }
        });
        Ok(disk)
    }

    /// The path of the disk's socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Cuts the power of the disk. The machine must have lost its power before. Returns how many sectors had unflushed
    /// writes, and how many of those did not keep their last version.
    ///
    /// # Errors
    ///
    /// If a machine is still connected.
    pub fn cut(&self, loss: Loss) -> Result<(usize, usize)> {
        let (content, condition) = &*self.shared;
        let content = content.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut content, waited) = condition
            .wait_timeout_while(content, HANG_UP, |content| content.connections > 0)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            bail!("a machine is still connected to the disk");
        }
        Ok(content.cut(loss))
    }

    /// The number of flushes.
    #[must_use]
    pub fn flushes(&self) -> u64 {
        lock(&self.shared).flushes
    }

    /// The number of writes.
    #[must_use]
    pub fn writes(&self) -> u64 {
        lock(&self.shared).writes
    }

    /// Lets the disk do this number of further writes and then stop responding, like a drive that loses its power alone.
    /// The next [`cut`](Self::cut) ends that.
    pub fn stop_after(&self, writes: u64) {
        let mut content = lock(&self.shared);
        content.stop_at = Some(content.writes + writes);
    }

    /// Waits until the disk has stopped. Returns `false` if it still works after `limit`.
    #[must_use]
    pub fn stops_within(&self, limit: Duration) -> bool {
        let (content, condition) = &*self.shared;
        let content = content.lock().unwrap_or_else(PoisonError::into_inner);
        let (content, _) = condition
            .wait_timeout_while(content, limit, |content| !content.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        content.stopped
    }

    /// Writes the content of the disk to a file, for programs on this machine.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, &lock(&self.shared).current).with_context(|| format!("write {}", path.display()))
    }
}

fn lock(shared: &(Mutex<Content>, Condvar)) -> MutexGuard<'_, Content> {
    shared.0.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Content {
    fn range(&self, offset: u64, length: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(length)?;
        (end <= self.current.len()).then_some(start..end)
    }

    /// Writes whole sectors: the disk announces to QEMU that it accepts nothing else.
    fn write(&mut self, start: usize, data: &[u8]) {
        self.current[start..start + data.len()].copy_from_slice(data);
        for (number, sector) in data.chunks_exact(SECTOR).enumerate() {
            let sector = sector.try_into().expect("a whole sector");
            self.pending.entry(start / SECTOR + number).or_default().push(sector);
        }
        self.writes += 1;
    }

    /// Whether the disk has stopped before this request.
    fn stops_at(&mut self, what: u64) -> bool {
        self.stopped |= what == WRITE && self.stop_at == Some(self.writes);
        self.stopped
    }

    fn flush(&mut self) {
        for (sector, versions) in std::mem::take(&mut self.pending) {
            if let Some(last) = versions.last() {
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(last);
            }
        }
        self.flushes += 1;
    }

    fn cut(&mut self, loss: Loss) -> (usize, usize) {
        let pending = std::mem::take(&mut self.pending);
        let (count, mut lost) = (pending.len(), 0);
        for (sector, versions) in pending {
            let kept = match loss {
                Loss::None => versions.len(),
                Loss::All => 0,
                Loss::Any(seed) => {
                    let choices = versions.len() as u64 + 1;
                    usize::try_from(mix(seed ^ sector as u64) % choices).unwrap_or_default()
                }
            };
            lost += usize::from(kept < versions.len());
            if let Some(version) = kept.checked_sub(1).and_then(|kept| versions.get(kept)) {
                self.durable[sector * SECTOR..][..SECTOR].copy_from_slice(version);
            }
        }
        self.current.clone_from(&self.durable);
        (self.stop_at, self.stopped) = (None, false);
        (count, lost)
    }
}

/// The finisher of SplitMix64, which turns similar numbers into unrelated ones.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Serves one connection: the handshake, then requests until it closes.
fn serve(mut stream: UnixStream, shared: &(Mutex<Content>, Condvar)) -> io::Result<()> {
    let size = lock(shared).current.len() as u64;
    if !handshake(&mut stream, size)? {
        return Ok(());
    }
    loop {
        let head: [u8; 28] = take(&mut stream)?;
        let field =
            |from: usize, to: usize| head[from..to].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if field(0, 4) != 0x2560_9513 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (what, offset) = (field(6, 8), field(16, 24));
        let length = usize::try_from(field(24, 28)).map_err(|_cause| io::ErrorKind::InvalidData)?;
        if length > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let data = if what == WRITE { take_all(&mut stream, length)? } else { Vec::new() };
        let mut content = lock(shared);
        if content.stops_at(what) {
            drop(content);
            shared.1.notify_all();
            // A stopped disk reads and ignores requests until the machine is gone.
            return io::copy(&mut stream, &mut io::sink()).map(drop);
        }
        let range = content.range(offset, length);
        let mut answer = Vec::new();
        let error = match (what, range) {
            (READ, Some(range)) => {
                answer.extend_from_slice(&content.current[range]);
                0
            }
            (WRITE, Some(range)) if range.start % SECTOR == 0 && length % SECTOR == 0 => {
                content.write(range.start, &data);
                0
            }
            (FLUSH, _) => {
                content.flush();
                0
            }
            (DISCONNECT, _) => return Ok(()),
            _ => EINVAL,
        };
        drop(content);
        let mut reply = Vec::with_capacity(16 + answer.len());
        reply.extend_from_slice(&0x6744_6698_u32.to_be_bytes());
        reply.extend_from_slice(&u32::to_be_bytes(error));
        reply.extend_from_slice(&head[8..16]);
        reply.extend_from_slice(&answer);
        stream.write_all(&reply)?;
    }
}

/// Kinds of requests.
const READ: u64 = 0;
const WRITE: u64 = 1;
const DISCONNECT: u64 = 2;
const FLUSH: u64 = 3;

const EINVAL: u32 = 22;

/// Options of the handshake.
const ABORT: u32 = 2;
const INFO: u32 = 6;
const GO: u32 = 7;

/// Replies to options.
const ACKNOWLEDGED: u32 = 1;
const INFORMATION: u32 = 3;
const UNSUPPORTED: u32 = 0x8000_0001;

/// Performs the newstyle handshake. Returns whether requests follow.
fn handshake(stream: &mut UnixStream, size: u64) -> io::Result<bool> {
    // "Fixed newstyle" and no padding.
    stream.write_all(&[&b"NBDMAGICIHAVEOPT"[..], &3_u16.to_be_bytes()].concat())?;
    let _flags: [u8; 4] = take(stream)?;
    loop {
        if take::<8>(stream)? != *b"IHAVEOPT" {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let option = u32::from_be_bytes(take(stream)?);
        let length = usize::try_from(u32::from_be_bytes(take(stream)?)).unwrap_or(usize::MAX);
        if length > MAX_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        take_all(stream, length)?;
        let mut answer = |kind: u32, data: &[u8]| {
            let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let mut reply = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
            for number in [option, kind, length] {
                reply.extend_from_slice(&number.to_be_bytes());
            }
            reply.extend_from_slice(data);
            stream.write_all(&reply)
        };
        match option {
            INFO | GO => {
                // The flags: the export has flags, and can flush. Requests are whole sectors, and at least one.
                let export = [&[0, 0][..], &size.to_be_bytes(), &5_u16.to_be_bytes()].concat();
                let sectors = [SECTOR, 4096, MAX_REQUEST].map(|size| (size as u32).to_be_bytes()).concat();
                answer(INFORMATION, &export)?;
                answer(INFORMATION, &[&3_u16.to_be_bytes()[..], &sectors].concat())?;
                answer(ACKNOWLEDGED, &[])?;
                if option == GO {
                    return Ok(true);
                }
            }
            ABORT => {
                answer(ACKNOWLEDGED, &[])?;
                return Ok(false);
            }
            _ => answer(UNSUPPORTED, &[])?,
        }
    }
}

fn take<const LENGTH: usize>(stream: &mut impl Read) -> io::Result<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn take_all(stream: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content { durable: vec![0; 8 * SECTOR], current: vec![0; 8 * SECTOR], ..Content::default() }
    }

    fn first_bytes(content: &Content) -> Vec<u8> {
        content.current.chunks(SECTOR).map(|sector| sector[0]).collect()
    }

    #[test]
    fn what_was_flushed_survives_a_cut_and_what_was_not_is_lost() {
        let mut disk = content();
        disk.write(0, &[1; 2 * SECTOR]);
        disk.flush();
        disk.write(SECTOR, &[2; 2 * SECTOR]);
        assert_eq!(first_bytes(&disk), [1, 2, 2, 0, 0, 0, 0, 0]);
        assert_eq!(disk.cut(Loss::All), (2, 2));
        assert_eq!(first_bytes(&disk), [1, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn a_drive_with_a_battery_loses_nothing() {
        let mut disk = content();
        disk.write(0, &[1; SECTOR]);
        assert_eq!(disk.cut(Loss::None), (1, 0));
        assert_eq!(first_bytes(&disk)[0], 1);
    }

    #[test]
    fn a_cut_keeps_any_version_of_each_sector_and_no_other() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut disk = content();
            disk.write(0, &[1; 3 * SECTOR]);
            disk.write(0, &[2; 2 * SECTOR]);
            disk.cut(Loss::Any(seed));
            seen.insert(first_bytes(&disk)[..3].to_vec());
        }
        // Two sectors have three versions each, the third has two.
        assert_eq!(seen.len(), 3 * 3 * 2);
    }

    #[test]
    fn a_disk_that_is_to_stop_does_so_many_writes_more() {
        let mut disk = content();
        disk.write(0, &[1; SECTOR]);
        disk.stop_at = Some(disk.writes + 1);
        assert!(!disk.stops_at(WRITE));
        disk.write(SECTOR, &[2; SECTOR]);
        assert!(!disk.stops_at(READ));
        assert!(disk.stops_at(WRITE) && disk.stops_at(READ));
        disk.cut(Loss::None);
        assert!(!disk.stops_at(WRITE));
        assert_eq!(first_bytes(&disk)[..3], [1, 2, 0]);
    }

    #[test]
    fn a_client_reads_what_it_wrote_and_learns_of_the_flush() {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path(), "disk", 1).unwrap();
        let mut stream = UnixStream::connect(disk.socket()).unwrap();
        assert_eq!(&take::<18>(&mut stream).unwrap()[..16], b"NBDMAGICIHAVEOPT");
        stream.write_all(&3_u32.to_be_bytes()).unwrap();
        // An unknown option, then GO for the export without a name.
        for (option, data) in [(8_u32, vec![]), (GO, vec![0_u8; 6])] {
            stream.write_all(b"IHAVEOPT").unwrap();
            stream.write_all(&option.to_be_bytes()).unwrap();
            stream.write_all(&u32::try_from(data.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&data).unwrap();
        }
        let kinds = [UNSUPPORTED, INFORMATION, INFORMATION, ACKNOWLEDGED].map(|_| {
            let head: [u8; 20] = take(&mut stream).unwrap();
            let length = u32::from_be_bytes(head[16..].try_into().unwrap());
            take_all(&mut stream, length as usize).unwrap();
            u32::from_be_bytes(head[12..16].try_into().unwrap())
        });
        assert_eq!(kinds, [UNSUPPORTED, INFORMATION, INFORMATION, ACKNOWLEDGED]);
        let mut request = |what: u64, offset: u64, length: u32, data: &[u8], answer: usize| {
            stream.write_all(&0x2560_9513_u32.to_be_bytes()).unwrap();
            stream.write_all(&u32::try_from(what).unwrap().to_be_bytes()).unwrap();
            stream.write_all(b"request1").unwrap();
            stream.write_all(&offset.to_be_bytes()).unwrap();
            stream.write_all(&length.to_be_bytes()).unwrap();
            stream.write_all(data).unwrap();
            let head: [u8; 16] = take(&mut stream).unwrap();
            assert_eq!(&head[8..], b"request1");
            (u32::from_be_bytes(head[4..8].try_into().unwrap()), take_all(&mut stream, answer).unwrap())
        };
        assert_eq!(request(WRITE, 512, 512, &[7; 512], 0), (0, vec![]));
        assert_eq!(request(READ, 0, 1024, &[], 1024), (0, [vec![0; 512], vec![7; 512]].concat()));
        assert_eq!(request(FLUSH, 0, 0, &[], 0), (0, vec![]));
        assert_eq!(request(READ, 1 << 20, 512, &[], 0).0, EINVAL);
        assert_eq!(disk.flushes(), 1);
        drop(stream);
        assert_eq!(disk.cut(Loss::All).unwrap(), (0, 0));
    }
}
