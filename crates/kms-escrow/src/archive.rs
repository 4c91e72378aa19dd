//! One archive: a tar in the age format, in a file. The tar itself is on no disk.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use age::{Identity, stream::StreamWriter};
use jiff::Timestamp;
use kms_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};
use zeroize::Zeroizing;

use crate::{
    Recipients,
    error::{damaged, not_read, not_written},
    file_key::Noted,
    stream::{Plain, encryptor, open},
};

/// The largest file of an archive: a LUKS header with the largest areas, or the manifest of very many keys.
const MOST_BYTES: u64 = 256 << 20;

/// The size and the digest of bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

impl Sum {
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let mut summing = Summing::new(());
        summing.add(bytes);
        summing.sum()
    }

    /// The sum of a file.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let copied = File::open(path).and_then(|mut file| {
            let mut summing = Summing::new(io::sink());
            io::copy(&mut file, &mut summing).map(|_bytes| summing.sum())
        });
        copied.map_err(not_read(path))
    }
}

/// Adds up what passes through it.
struct Summing<W> {
    inner: W,
    bytes: u64,
    digest: Sha256,
}

impl<W> Summing<W> {
    fn new(inner: W) -> Self {
        Self { inner, bytes: 0, digest: Sha256::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.digest.update(bytes);
    }

    fn sum(self) -> Sum {
        let digest = self.digest.finalize();
        Sum { bytes: self.bytes, sha256: digest.iter().map(|byte| format!("{byte:02x}")).collect() }
    }
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.add(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// An archive that is being written.
pub(crate) struct ArchiveWriter {
    path: PathBuf,
    tar: tar::Builder<StreamWriter<Summing<File>>>,
    created: Timestamp,
    file_key: Noted,
}

/// An archive that was written: what the file must have, and the key to read it back.
pub(crate) struct Written {
    pub(crate) sum: Sum,
    pub(crate) file_key: Noted,
}

impl ArchiveWriter {
    /// Creates the file.
    pub(crate) fn create(path: &Path, recipients: &Recipients, created: Timestamp) -> Result<Self> {
        let (encryptor, file_key) = encryptor(recipients)?;
        let file = File::create_new(path).map_err(not_written(path))?;
        let stream = encryptor.wrap_output(Summing::new(file)).map_err(not_written(path))?;
        Ok(Self { path: path.to_owned(), tar: tar::Builder::new(stream), created, file_key })
    }

    /// Adds a file.
    pub(crate) fn add(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o400);
        header.set_mtime(u64::try_from(self.created.as_second()).unwrap_or_default());
        header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        self.tar.append_data(&mut header, name, bytes).map_err(not_written(&self.path))
    }

    /// Ends the archive, and waits until the disk has it.
    pub(crate) fn finish(self) -> Result<Written> {
        let finished = self.tar.into_inner().and_then(StreamWriter::finish).and_then(|summing| {
            summing.inner.sync_all()?;
            Ok(summing.sum())
        });
        let sum = finished.map_err(not_written(&self.path))?;
        Ok(Written { sum, file_key: self.file_key })
    }
}

/// A file of an archive: its name and its bytes.
pub(crate) type Member = (String, Zeroizing<Vec<u8>>);

/// An archive that is being read.
pub(crate) struct ArchiveReader<'a> {
    path: &'a Path,
    tar: tar::Archive<Plain>,
}

impl<'a> ArchiveReader<'a> {
    /// Opens and decrypts an archive.
    pub(crate) fn open(path: &'a Path, identities: &[&dyn Identity]) -> Result<Self> {
        Ok(Self { path, tar: tar::Archive::new(open(path, identities)?) })
    }

    /// The files, in order. A later one is read after an earlier one only.
    pub(crate) fn members(&mut self) -> Result<impl Iterator<Item = Result<Member>>> {
        let path = self.path;
        let entries = self.tar.entries().map_err(not_read(path))?;
        Ok(entries.map(move |entry| member(entry.map_err(not_read(path))?, path)))
    }

    /// Reads to the end, which proves that nothing is cut off.
    pub(crate) fn finish(self) -> Result<()> {
        let mut rest = self.tar.into_inner();
        io::copy(&mut rest, &mut io::sink()).map(|_bytes| ()).map_err(not_read(self.path))
    }
}

fn member(mut entry: tar::Entry<'_, Plain>, path: &Path) -> Result<Member> {
    let name = std::str::from_utf8(&entry.path_bytes()).map(str::to_owned);
    let name = name.map_err(|_cause| damaged("a name in its archive is not text"))?;
    if entry.header().entry_type() != EntryType::Regular {
        return Err(damaged("its archive holds something other than files"));
    }
    let length =
        Some(entry.size()).filter(|size| *size <= MOST_BYTES).and_then(|size| usize::try_from(size).ok());
    let length = length
        .ok_or_else(|| Error::new(ErrorKind::Protocol, "a file in the archive of the escrow is too large"))?;
    // The buffer has its final size: one that grows leaves copies.
    let mut bytes = Zeroizing::new(vec![0; length]);
    entry.read_exact(&mut bytes).map_err(not_read(path))?;
    Ok((name, bytes))
}
