//! The code of a check: its number never changes its meaning.

use std::{cmp::Ordering, fmt};

use kms_core::{Error, Result};

/// How bad it is if a check finds something.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Severity {
    /// It works now, and may not work later.
    Warning,
    /// An OSD does not start, or a key can be lost.
    Error,
}

/// A check, by its number.
///
/// A check looks for one thing that can be wrong. It may need other checks: if one of these has found something, or was
/// not made, this check is not made.
#[derive(Clone, Copy, Debug)]
pub struct Code {
    number: u16,
    severity: Severity,
    title: &'static str,
    needs: &'static [Self],
}

impl Code {
    /// A check that finds errors. The number has two digits for the area and two for the check; the title says what is
    /// wrong.
    pub const fn error(number: u16, title: &'static str) -> Self {
        Self { number, severity: Severity::Error, title, needs: &[] }
    }

    /// A check that finds warnings.
    pub const fn warning(number: u16, title: &'static str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(number, title) }
    }

    /// Names the checks that this one needs.
    #[must_use]
    pub const fn needing(self, needs: &'static [Self]) -> Self {
        Self { needs, ..self }
    }

    /// How bad it is if this check finds something.
    pub const fn severity(self) -> Severity {
        self.severity
    }

    /// What is wrong if this check finds something.
    pub const fn title(self) -> &'static str {
        self.title
    }

    /// The number of the area.
    pub const fn area(self) -> u16 {
        self.number / 100
    }

    /// The checks that this one needs.
    pub const fn needs(self) -> &'static [Self] {
        self.needs
    }

    /// The code with this name among `catalogue`, in either case.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if no check has the name.
    pub fn named(text: &str, catalogue: &[Self]) -> Result<Self> {
        let found = catalogue.iter().find(|code| code.to_string().eq_ignore_ascii_case(text));
        found.copied().ok_or_else(|| {
            Error::config(format!(
                "no check has the code {text:?}: write it as the findings do, such as KMS0803"
            ))
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KMS{:04}", self.number)
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Code {}

impl PartialOrd for Code {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Code {
    fn cmp(&self, other: &Self) -> Ordering {
        self.number.cmp(&other.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_by_the_name_that_it_prints() {
        let all = [Code::error(101, "a"), Code::warning(1102, "b")];
        for code in all {
            assert_eq!(Code::named(&code.to_string(), &all).unwrap(), code);
            assert_eq!(Code::named(&code.to_string().to_lowercase(), &all).unwrap(), code);
        }
        for text in ["", "KMS", "KMS101", "KMS00101", "KMS0102", "0101", "KMS+101", "\u{e4}\u{e4}0101"] {
            assert!(Code::named(text, &all).is_err(), "{text}");
        }
    }
}
