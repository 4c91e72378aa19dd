//! The switch that replaces the responses of a server.

use std::{fmt, sync::Arc};

use kms_core::KmsProvider;

/// The requests whose responses are replaced.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an implementer has to handle every scope")]
pub enum Misled {
    /// Reads and lists of keys. Every other request reaches the server.
    Reads,
    /// Every request. No request reaches the server.
    Everything,
}

/// A switch in front of a server that replaces its responses by ones that say nothing about a key.
pub trait Interference: fmt::Debug + Send + Sync {
    /// The names of the responses.
    fn habits(&self) -> Vec<&'static str>;

    /// Replaces responses by the one with this index in [`habits`](Self::habits), until [`end`](Self::end).
    fn begin(&self, habit: usize, misled: Misled);

    /// Passes requests and responses on again.
    fn end(&self);
}

/// A client without layers, and the switch in front of its server.
#[derive(Clone, Debug)]
pub(super) struct MisledClient {
    pub(super) provider: Arc<dyn KmsProvider>,
    pub(super) switch: Arc<dyn Interference>,
}

/// The switch while it replaces responses. Dropping it ends that.
pub(super) struct Misleading<'a>(&'a dyn Interference);

impl<'a> Misleading<'a> {
    pub(super) fn begin(switch: &'a dyn Interference, habit: usize, misled: Misled) -> Self {
        switch.begin(habit, misled);
        Self(switch)
    }
}

impl Drop for Misleading<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
