//! Memory under a path, for programs that read files.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::{AsRawFd as _, RawFd},
    path::PathBuf,
};

use kms_core::{Error, ErrorKind, Result};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    io::fcntl_dupfd_cloexec,
};

use crate::process::Call;

/// The least number of the descriptor, so that it does not collide with those of keys and locks in a child.
const LEAST_FD: RawFd = 100;

/// Bytes in memory. The path leads to them in this process, and in each child that inherits the descriptor. No disk has
/// them, but for swap.
#[derive(Debug)]
pub(crate) struct Memory(File);

impl Memory {
    /// Memory that holds these bytes.
    pub(crate) fn holding(bytes: &[u8]) -> io::Result<Self> {
        let memory = memfd_create("kms", MemfdFlags::CLOEXEC)?;
        let mut file = File::from(fcntl_dupfd_cloexec(&memory, LEAST_FD)?);
        file.write_all(bytes)?;
        Ok(Self(file))
    }

    /// The path of the memory.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// Lets a program inherit the memory under the same path.
    pub(crate) fn inherited_by(&self, call: Call) -> Result<Call> {
        let copy = self.0.try_clone().map_err(|cause| {
            Error::new(ErrorKind::Unexpected, "the system refused another descriptor").source(cause)
        })?;
        Ok(call.inherit_as(copy.into(), self.0.as_raw_fd()))
    }
}
