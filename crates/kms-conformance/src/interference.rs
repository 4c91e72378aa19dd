//! The switches that replace the responses of a server, and that cut its lists.

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

/// What a client can do about a list that is cut.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "an implementer has to choose one of them")]
pub enum Cut {
    /// The client can read the rest: every key is listed.
    Completed,
    /// The client can only find out that keys are missing: the list ends with `Incomplete`.
    Detected,
}

/// A switch that cuts the lists of a server.
pub trait ListCuts: fmt::Debug + Send + Sync {
    /// The ways in which the server cuts its lists, each with its name.
    fn ways(&self) -> Vec<(&'static str, Cut)>;

    /// Cuts lists in the way with this index in [`ways`](Self::ways), until [`end`](Self::end). Every way must hide some of
    /// ten keys from a client that reads one page.
    fn begin(&self, way: usize);

    /// Sends whole lists again.
    fn end(&self);
}

/// The switch while it cuts lists. Dropping it ends that.
pub(super) struct Cutting<'a>(&'a dyn ListCuts);

impl<'a> Cutting<'a> {
    pub(super) fn begin(switch: &'a dyn ListCuts, way: usize) -> Self {
        switch.begin(way);
        Self(switch)
    }
}

impl Drop for Cutting<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
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
