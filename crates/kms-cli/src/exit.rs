//! Exit codes.

use std::process::ExitCode;

use kms_core::{Error, ErrorKind, Retry};

/// The exit codes of the program. The numbers are an interface and never change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Exit {
    /// The command succeeded.
    Done = 0,
    /// The command failed for a reason that has no code of its own.
    Failed = 1,
    /// The command line, a setting or a Secret is wrong.
    Usage = 2,
    /// An object does not exist.
    NotFound = 3,
    /// The credentials are wrong, or do not permit the operation.
    Denied = 4,
    /// A later attempt may succeed.
    TryAgain = 5,
}

impl Exit {
    /// Every exit code, in order.
    pub const ALL: [Self; 6] =
        [Self::Done, Self::Failed, Self::Usage, Self::NotFound, Self::Denied, Self::TryAgain];

    /// The exit code for an error.
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::ConfigInvalid | ErrorKind::Disabled | ErrorKind::Unsupported => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Self::Denied,
            ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unavailable => Self::TryAgain,
            // A lock that another process holds: it ends, and nothing has been changed.
            ErrorKind::Conflict if error.retryable() != Retry::Never => Self::TryAgain,
            // AlreadyExists, Conflict, Incomplete, Protocol, Unexpected, and all kinds that are added later.
            _ => Self::Failed,
        }
    }

    /// The exit code of several ends: the common one if all are the same, otherwise that of mixed failures.
    pub(crate) fn of_all(mut exits: impl Iterator<Item = Self>) -> Self {
        match exits.next() {
            None => Self::Done,
            Some(first) if exits.all(|exit| exit == first) => first,
            Some(_) => Self::Failed,
        }
    }

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of the code, for the help text and the documentation.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => {
                "failed, for none of the reasons below; also: the key exists, or has changed meanwhile, or a list is incomplete"
            }
            Self::Usage => "the command line, a setting or a Secret is wrong, or the provider cannot do it",
            Self::NotFound => "there is no such key, Secret, mount, CephCluster or mapping",
            Self::Denied => "the credentials were not accepted, or do not allow it",
            Self::TryAgain => {
                "the server is unreachable, sealed, overloaded or slow, or a device is locked: try again later"
            }
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_exit_code() {
        let codes = ErrorKind::ALL.map(|kind| (kind, Exit::of(&Error::new(kind, "")).code()));
        assert_eq!(
            codes,
            [
                (ErrorKind::AlreadyExists, 1),
                (ErrorKind::ConfigInvalid, 2),
                (ErrorKind::Conflict, 1),
                (ErrorKind::Disabled, 2),
                (ErrorKind::Incomplete, 1),
                (ErrorKind::NotFound, 3),
                (ErrorKind::PermissionDenied, 4),
                (ErrorKind::Protocol, 1),
                (ErrorKind::RateLimited, 5),
                (ErrorKind::Timeout, 5),
                (ErrorKind::Unauthenticated, 4),
                (ErrorKind::Unavailable, 5),
                (ErrorKind::Unexpected, 1),
                (ErrorKind::Unsupported, 2),
            ]
        );
        let locked = Error::new(ErrorKind::Conflict, "").retry(Retry::Always);
        assert_eq!(Exit::of(&locked), Exit::TryAgain);
        for (at, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), at);
        }
    }
}
