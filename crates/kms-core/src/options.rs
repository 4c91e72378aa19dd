//! The options of puts, deletes and reads.

use crate::KeyVersion;

/// The state of the key that a put requires.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "a provider that does not know a new mode must not compile")]
pub enum PutMode {
    /// The key is absent. The put fails with `AlreadyExists` if the key exists.
    Create,
    /// Any state: the last writer wins.
    Overwrite,
    /// The key is in this version. The put fails with `Conflict` if the key has changed, with `NotFound` if it is gone.
    Update(KeyVersion),
}

/// What a delete leaves of a key.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum DeleteMode {
    /// Nothing: the provider destroys all versions for good, as Rook does.
    #[default]
    Destroy,
    /// A key that [`KmsProvider::undelete`](crate::KmsProvider::undelete) can bring back, for a while at least.
    Soft,
}

/// How old the result of a read may be.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Freshness {
    /// The copy of any server in a cluster, which works while the cluster has no leader: for opening a device. The read
    /// still sees the writes of this client.
    #[default]
    Any,
    /// The read sees every write of any client that ended before the read began: for a read that a decision depends on.
    Fresh,
}
