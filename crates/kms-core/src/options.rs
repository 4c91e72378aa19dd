//! The choices of a caller.

use crate::KeyVersion;

/// What a put expects to find.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a provider that does not know a new mode must not compile")]
pub enum PutMode {
    /// Nothing: fails with `AlreadyExists` if there is a key of that name.
    Create,
    /// Anything: the last writer wins.
    Overwrite,
    /// The key in this very version: fails with `Conflict` if it has changed, with `NotFound` if it is gone.
    Update(KeyVersion),
}

/// What a delete leaves of a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DeleteMode {
    /// Nothing: all versions are destroyed for good, as Rook does.
    #[default]
    Destroy,
    /// Something that the provider's own tools can bring back, for a while.
    Soft,
}

/// How old the result of a read may be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Freshness {
    /// Any server's own copy will do: the right choice for opening a device, since it works while the leader of a
    /// cluster is away. A write of this same client is seen all the same.
    #[default]
    Any,
    /// The read sees every write that was answered before it, by any client: the right choice for a read that decides
    /// something.
    Fresh,
}
