//! Exit codes.

use std::process::ExitCode;

use kms_core::{Error, ErrorKind};

/// How the program ends. The numbers are an interface: they never change.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Denied = 4,
    TryAgain = 5,
}

impl Exit {
    /// Every exit code, in order.
    pub(crate) const ALL: [Self; 6] =
        [Self::Done, Self::Failed, Self::Usage, Self::NotFound, Self::Denied, Self::TryAgain];

    /// The exit code for an error.
    pub(crate) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::ConfigInvalid | ErrorKind::Disabled | ErrorKind::Unsupported => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Self::Denied,
            ErrorKind::RateLimited | ErrorKind::Timeout | ErrorKind::Unavailable => Self::TryAgain,
            // AlreadyExists, Conflict, Protocol, Unexpected, and whatever is added to the kinds later.
            _ => Self::Failed,
        }
    }

    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// What it means, for the help text and the documentation.
    pub(crate) const fn meaning(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => {
                "failed, for none of the reasons below; also: the key exists, or has changed meanwhile"
            }
            Self::Usage => "the command line, a setting or a Secret is wrong, or the provider cannot do it",
            Self::NotFound => "there is no such key, Secret, mount, CephCluster or mapping",
            Self::Denied => "the credentials were not accepted, or do not allow it",
            Self::TryAgain => {
                "the server is unreachable, sealed, overloaded or too slow: worth another try later"
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
        for (at, exit) in Exit::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(exit.code()), at);
        }
    }
}
