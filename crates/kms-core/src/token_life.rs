//! How long a token of the settings lives, as an event that a program may take note of.

use std::time::Duration;

use tracing::debug;

/// The target of the event. Its fields are `provider`, `seconds` (0 for a token that never ends) and `renewable`.
pub const TARGET: &str = "kms_core::token_life";

/// Says what a provider has learnt of a token of its settings: how much of its life is left, `None` if it never ends, and
/// whether it can be renewed. A token of a login is no such token: the next login makes another one.
pub fn learnt(provider: &'static str, left: Option<Duration>, renewable: bool) {
    let seconds = left.map_or(0, |left| left.as_secs().max(1));
    debug!(target: TARGET, provider, seconds, renewable, "looked the token up");
}
