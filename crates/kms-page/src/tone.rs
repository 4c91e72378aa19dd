//! What a state means to the reader.

use std::fmt::Display;

use maud::{Markup, display, html};

/// What a state means to the reader. The order is that of urgency.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Tone {
    /// An OSD does not start, a key can be lost, or work has stopped.
    Bad,
    /// Something needs attention.
    Warning,
    /// Work is going on.
    Active,
    /// The state is not known.
    Unknown,
    /// Nothing is to be done.
    Good,
}

impl Tone {
    /// The sign before the word of a state: colours are not seen by everyone, and not printed by every printer.
    pub const fn sign(self) -> &'static str {
        match self {
            Self::Bad => "✗",
            Self::Warning => "!",
            Self::Active => "»",
            Self::Unknown => "?",
            Self::Good => "✓",
        }
    }

    /// The class in the style sheet.
    pub const fn class(self) -> &'static str {
        match self {
            Self::Bad => "bad",
            Self::Warning => "warning",
            Self::Active => "active",
            Self::Unknown => "unknown",
            Self::Good => "ok",
        }
    }

    /// The word of a state with its sign, in its colour.
    pub fn word(self, word: impl Display) -> Markup {
        html! { span.state.(self.class()) { (self.sign()) " " (display(word)) } }
    }
}
