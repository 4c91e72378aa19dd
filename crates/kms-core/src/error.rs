//! The error type of all providers: what failed, and whether a retry may help.

mod key;

use std::{borrow::Cow, error::Error as StdError, fmt, sync::Arc, time::Duration};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error. A caller decides by it what to do.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A create found a key of that name. See [`Error::existing`].
    AlreadyExists,
    /// A setting, a Secret or an argument is wrong. The request was not sent.
    ConfigInvalid,
    /// The key has changed since the version that the caller named.
    Conflict,
    /// The provider is known, but its feature was not compiled in.
    Disabled,
    /// The server has returned only a part of what was asked for, and no further request completes it. What is missing
    /// from it is not absent.
    Incomplete,
    /// The key, Secret or mount is absent.
    NotFound,
    /// The server knows our account and does not allow it the operation.
    PermissionDenied,
    /// The server sent a malformed response.
    Protocol,
    /// The server asks for fewer requests.
    RateLimited,
    /// A time-out.
    Timeout,
    /// The server does not accept the credentials.
    Unauthenticated,
    /// The server cannot be reached, or cannot work now (sealed, no leader, shutting down).
    Unavailable,
    /// An error of no other kind.
    Unexpected,
    /// The provider cannot do this. The request was not sent.
    Unsupported,
}

impl ErrorKind {
    /// Every kind, in alphabetical order.
    pub const ALL: [Self; 14] = [
        Self::AlreadyExists,
        Self::ConfigInvalid,
        Self::Conflict,
        Self::Disabled,
        Self::Incomplete,
        Self::NotFound,
        Self::PermissionDenied,
        Self::Protocol,
        Self::RateLimited,
        Self::Timeout,
        Self::Unauthenticated,
        Self::Unavailable,
        Self::Unexpected,
        Self::Unsupported,
    ];

    /// The stable name of the kind, as in JSON output and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyExists => "already-exists",
            Self::ConfigInvalid => "config-invalid",
            Self::Conflict => "conflict",
            Self::Disabled => "disabled",
            Self::Incomplete => "incomplete",
            Self::NotFound => "not-found",
            Self::PermissionDenied => "permission-denied",
            Self::Protocol => "protocol",
            Self::RateLimited => "rate-limited",
            Self::Timeout => "timeout",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unexpected => "unexpected",
            Self::Unsupported => "unsupported",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a failed operation may be repeated.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Retry {
    /// A retry would fail the same way, or all tries are used up.
    Never,
    /// The outcome is unknown: only an idempotent operation may be retried.
    IfIdempotent,
    /// The operation was certainly not applied.
    Always,
}

/// What is known of the existing key, for an [`ErrorKind::AlreadyExists`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Existing {
    /// The stored KEK is the caller's.
    Same,
    /// Another KEK is stored.
    Different,
    /// The stored KEK could not be read.
    Unknown,
}

/// What is known of a write that failed.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum WriteOutcome {
    /// The write was not applied, and cannot be applied later.
    NotApplied,
    /// The write may have been applied, or may still be applied after the caller has received the error.
    Unknown,
}

/// An error of a KMS provider, of its configuration or of a layer around it.
///
/// `Display` is one line without the cause; the cause is the [`source`](StdError::source).
/// It is cheap to clone: if several callers wait for one login, all of them get its error.
/// No part of an error holds a KEK, a credential or the value of a setting.
#[derive(Clone)]
pub struct Error(Box<Inner>);

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    retry: Retry,
    retry_after: Option<Duration>,
    existing: Option<Existing>,
    write_outcome: Option<WriteOutcome>,
    operation: Option<&'static str>,
    provider: Option<&'static str>,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    source: Option<Arc<dyn StdError + Send + Sync + 'static>>,
}

impl Error {
    /// An error that must not be retried. `message` is lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: Retry::Never,
            retry_after: None,
            existing: None,
            write_outcome: None,
            operation: None,
            provider: None,
            message: message.into(),
            context: Vec::new(),
            source: None,
        }))
    }

    /// An [`ErrorKind::ConfigInvalid`].
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::ConfigInvalid, message)
    }

    /// Adds an identifier that helps to find the cause: a mount, a key name, a request id. Never a secret.
    #[must_use]
    pub fn context(mut self, name: &'static str, value: impl Into<String>) -> Self {
        if !self.0.context.iter().any(|(known, _)| *known == name) {
            self.0.context.push((name, value.into()));
        }
        self
    }

    /// Sets whether a retry may help.
    #[must_use]
    pub fn retry(mut self, retry: Retry) -> Self {
        self.0.retry = retry;
        self
    }

    /// Sets how long the server wants us to wait before the next try.
    #[must_use]
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.0.retry_after = wait;
        self
    }

    /// Sets the outcome of the failed write, for errors whose kind and [`Retry`] do not show it.
    #[must_use]
    pub fn outcome(mut self, outcome: WriteOutcome) -> Self {
        self.0.write_outcome = Some(outcome);
        self
    }

    /// Sets the failed operation, unless it is already set.
    #[must_use]
    pub fn operation(mut self, operation: &'static str) -> Self {
        self.0.operation.get_or_insert(operation);
        self
    }

    /// Sets the failed provider, unless it is already set.
    #[must_use]
    pub fn provider(mut self, provider: &'static str) -> Self {
        self.0.provider.get_or_insert(provider);
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn source(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// The kind of the error.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether a retry may help.
    pub fn retryable(&self) -> Retry {
        self.0.retry
    }

    /// How long the server wants us to wait.
    pub fn wait(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// What is known of the existing key, for an [`ErrorKind::AlreadyExists`].
    pub fn existing(&self) -> Option<Existing> {
        self.0.existing
    }

    /// Whether the write that failed with this error was applied, or may still be applied.
    ///
    /// An outcome that [`outcome`](Self::outcome) has set takes precedence. Otherwise the result is
    /// [`WriteOutcome::NotApplied`] if the server or this client refused the write before it wrote anything, and
    /// [`WriteOutcome::Unknown`] for every other error. For an [`ErrorKind::Conflict`] this is about the last try;
    /// only a server with [atomic](crate::Guarantee::Atomic) writes guarantees it for earlier tries too.
    pub fn write_outcome(&self) -> WriteOutcome {
        let Inner { kind, retry, write_outcome, .. } = &*self.0;
        match (write_outcome, retry, kind) {
            (Some(outcome), _, _) => *outcome,
            (None, Retry::IfIdempotent, _) => WriteOutcome::Unknown,
            (
                None,
                _,
                ErrorKind::ConfigInvalid
                | ErrorKind::Conflict
                | ErrorKind::PermissionDenied
                | ErrorKind::RateLimited
                | ErrorKind::Unauthenticated
                | ErrorKind::Unsupported,
            ) => WriteOutcome::NotApplied,
            _ => WriteOutcome::Unknown,
        }
    }

    /// The operation that failed.
    pub fn failed_operation(&self) -> Option<&'static str> {
        self.0.operation
    }

    /// The name of the provider that failed.
    pub fn failed_provider(&self) -> Option<&'static str> {
        self.0.provider
    }

    /// The message alone, without operation and context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The identifiers that `context` has added, in order.
    pub fn contexts(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(name, value)| (*name, value.as_str()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { operation, provider, message, context, .. } = &*self.0;
        match (provider, operation) {
            (Some(provider), Some(operation)) => write!(f, "{provider}: {operation}: ")?,
            (Some(one), None) | (None, Some(one)) => write!(f, "{one}: ")?,
            (None, None) => {}
        }
        f.write_str(message)?;
        for (at, (name, value)) in context.iter().enumerate() {
            write!(f, "{}{name}: {value}", if at == 0 { " (" } else { ", " })?;
        }
        if !context.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner {
            kind,
            retry,
            retry_after,
            existing,
            write_outcome,
            operation,
            provider,
            message,
            context,
            source,
        } = &*self.0;
        f.debug_struct("Error")
            .field("kind", kind)
            .field("retry", retry)
            .field("retry_after", retry_after)
            .field("existing", existing)
            .field("write_outcome", write_outcome)
            .field("operation", operation)
            .field("provider", provider)
            .field("message", message)
            .field("context", context)
            .field("source", source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_is_one_line_without_the_cause() {
        let error = Error::new(ErrorKind::Unavailable, "the server is sealed")
            .operation("get")
            .operation("retry")
            .provider("vault")
            .context("mount", "rook")
            .context("key", "set1")
            .context("key", "ignored")
            .source(std::io::Error::other("cause"));
        assert_eq!(error.to_string(), "vault: get: the server is sealed (mount: rook, key: set1)");
        assert_eq!(StdError::source(&error).map(ToString::to_string).as_deref(), Some("cause"));
    }

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn a_write_is_final_only_where_the_error_shows_it() {
        let refused = Error::new(ErrorKind::PermissionDenied, "no right");
        assert_eq!(refused.write_outcome(), WriteOutcome::NotApplied);
        for (unknown, why) in [
            (refused.clone().outcome(WriteOutcome::Unknown), "a try before may have been applied"),
            (refused.retry(Retry::IfIdempotent), "the connection was lost"),
            (Error::new(ErrorKind::Protocol, "not JSON"), "the server may have written"),
            (Error::new(ErrorKind::Timeout, "no answer"), "the server may write later"),
        ] {
            assert_eq!(unknown.write_outcome(), WriteOutcome::Unknown, "{why}");
        }
    }

    #[test]
    fn an_error_fits_in_a_pointer() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
