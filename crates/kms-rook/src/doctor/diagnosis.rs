//! The findings of all checks, and what was not checked because of which.

use std::collections::BTreeMap;

use kms_core::Error;

use super::code::{Code, Severity};

/// What a check says.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Cause {
    /// In words.
    Said(String),
    /// The error that it met.
    Failed(Error),
}

/// What a check has found wrong with one object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Finding {
    /// The check.
    pub code: Code,
    /// The object that it is about.
    pub object: String,
    /// What is wrong with the object.
    pub cause: Cause,
    /// The command to run next.
    pub next: String,
}

impl Finding {
    /// A finding in words.
    pub fn new(
        code: Code,
        object: impl Into<String>,
        message: impl Into<String>,
        next: impl Into<String>,
    ) -> Self {
        Self { code, object: object.into(), cause: Cause::Said(message.into()), next: next.into() }
    }

    /// The finding that an error is.
    pub fn failed(code: Code, object: impl Into<String>, error: Error, next: impl Into<String>) -> Self {
        Self { code, object: object.into(), cause: Cause::Failed(error), next: next.into() }
    }
}

/// The state of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum State {
    /// It has found nothing wrong.
    Ok,
    /// It has found what may stop working.
    Warning,
    /// It has found what does not work.
    Error,
    /// It was not made, because of what another check has found.
    NotChecked(Code),
    /// It could not look at its object. Nothing else depends on that.
    NotSeen,
}

impl State {
    /// The word for it in the output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::NotChecked(_) | Self::NotSeen => "not-checked",
        }
    }
}

impl From<Severity> for State {
    fn from(severity: Severity) -> Self {
        match severity {
            Severity::Warning => Self::Warning,
            Severity::Error => Self::Error,
        }
    }
}

/// A check and what it says about one object.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// The check.
    pub code: Code,
    /// Its state.
    pub state: State,
    /// The object; `None` if the check was not made.
    pub object: Option<String>,
    /// What it says; `None` if the check was not made.
    pub cause: Option<Cause>,
    /// The command to run next; `None` if nothing is wrong, and if the check was not made.
    pub next: Option<String>,
}

/// Collects what the checks say.
#[derive(Clone, Debug, Default)]
pub struct Diagnosis {
    entries: BTreeMap<Code, Vec<Entry>>,
}

impl Diagnosis {
    /// A diagnosis without any check.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records that a check has found nothing wrong with an object. What it says of the same object is joined.
    pub fn pass(&mut self, code: Code, object: impl Into<String>, message: impl Into<String>) {
        let (object, message) = (object.into(), message.into());
        let entries = self.entries.entry(code).or_default();
        let known = entries
            .iter_mut()
            .find(|entry| entry.state == State::Ok && entry.object.as_deref() == Some(object.as_str()));
        match known.and_then(|entry| entry.cause.as_mut()) {
            Some(Cause::Said(text)) => {
                text.push_str("; ");
                text.push_str(&message);
            }
            _ => entries.push(Entry {
                code,
                state: State::Ok,
                object: Some(object),
                cause: Some(Cause::Said(message)),
                next: None,
            }),
        }
    }

    /// Adds a finding.
    pub fn add(&mut self, finding: Finding) {
        let Finding { code, object, cause, next } = finding;
        self.entries.entry(code).or_default().push(Entry {
            code,
            state: code.severity().into(),
            object: Some(object),
            cause: Some(cause),
            next: Some(next),
        });
    }

    /// Records that a check could not look at an object. That is no finding, and keeps no other check from being made.
    pub fn not_seen(&mut self, code: Code, object: impl Into<String>, error: Error) {
        self.entries.entry(code).or_default().push(Entry {
            code,
            state: State::NotSeen,
            object: Some(object.into()),
            cause: Some(Cause::Failed(error)),
            next: None,
        });
    }

    /// Adds the findings of a check, or records that it has found nothing wrong with `object`.
    pub fn add_all(
        &mut self,
        code: Code,
        found: impl IntoIterator<Item = Finding>,
        object: impl Into<String>,
        message: impl Into<String>,
    ) {
        let mut found = found.into_iter().peekable();
        if found.peek().is_none() {
            self.pass(code, object, message);
        }
        found.for_each(|finding| self.add(finding));
    }

    /// The objects that a check has found something wrong with.
    pub fn objects(&self, code: Code) -> impl Iterator<Item = &str> {
        self.findings(code).filter_map(|entry| entry.object.as_deref())
    }

    /// What a check has found wrong.
    pub fn findings(&self, code: Code) -> impl Iterator<Item = &Entry> {
        let is_wrong = |entry: &&Entry| matches!(entry.state, State::Warning | State::Error);
        self.entries.get(&code).into_iter().flatten().filter(is_wrong)
    }

    /// Whether a check has found something wrong.
    pub fn has_found(&self, code: Code) -> bool {
        self.findings(code).next().is_some()
    }

    /// Whether a check was made.
    pub fn has_made(&self, code: Code) -> bool {
        self.entries.contains_key(&code)
    }

    /// The check whose finding keeps another one from being made. `None` if the check was made, or nothing keeps it.
    pub fn kept_by(&self, code: Code) -> Option<Code> {
        if self.has_made(code) {
            return None;
        }
        code.needs()
            .iter()
            .find_map(|need| if self.has_found(*need) { Some(*need) } else { self.kept_by(*need) })
    }

    /// Everything in the order of the codes. A check of `catalogue` that was not made because of a finding gets an entry
    /// that says so; a check that does not apply gets none. Leaves the checks of `skipped` out.
    pub fn settle(mut self, catalogue: &[Code], skipped: &[Code]) -> Vec<Entry> {
        let kept: Vec<Entry> = catalogue
            .iter()
            .filter_map(|code| {
                let state = State::NotChecked(self.kept_by(*code)?);
                Some(Entry { code: *code, state, object: None, cause: None, next: None })
            })
            .collect();
        for entry in kept {
            self.entries.insert(entry.code, vec![entry]);
        }
        self.entries.retain(|code, _| !skipped.contains(code));
        self.entries.into_values().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Code = Code::error(101, "a");
    const B: Code = Code::warning(102, "b").needing(&[A]);
    const C: Code = Code::error(201, "c").needing(&[B]);
    const D: Code = Code::error(202, "d").needing(&[C]);
    const ALL: [Code; 4] = [A, B, C, D];

    fn states(diagnosis: Diagnosis, skipped: &[Code]) -> Vec<(Code, State)> {
        diagnosis.settle(&ALL, skipped).iter().map(|entry| (entry.code, entry.state)).collect()
    }

    #[test]
    fn what_was_not_checked_names_the_finding_that_is_the_cause() {
        let mut broken = Diagnosis::new();
        broken.add(Finding::new(A, "x", "wrong", "mend"));
        let because = |code| (code, State::NotChecked(A));
        assert_eq!(states(broken.clone(), &[]), [(A, State::Error), because(B), because(C), because(D)]);
        // A check that was made nevertheless stands, and ends the chain for those after it.
        broken.pass(C, "x", "fine");
        assert_eq!(states(broken.clone(), &[]), [(A, State::Error), because(B), (C, State::Ok)]);
        // What is skipped is still the cause.
        assert_eq!(states(broken, &[A]), [because(B), (C, State::Ok)]);
    }

    #[test]
    fn what_could_not_be_seen_is_no_finding_and_keeps_nothing() {
        let mut blind = Diagnosis::new();
        blind.not_seen(A, "x", Error::new(kms_core::ErrorKind::PermissionDenied, "may not"));
        assert!(!blind.has_found(A) && blind.has_made(A));
        blind.pass(B, "x", "fine");
        assert_eq!(states(blind, &[]), [(A, State::NotSeen), (B, State::Ok)]);
    }

    #[test]
    fn a_check_that_does_not_apply_has_no_entry() {
        let mut healthy = Diagnosis::new();
        healthy.pass(A, "x", "fine");
        healthy.add(Finding::new(D, "x", "wrong", "mend"));
        assert_eq!(states(healthy, &[]), [(A, State::Ok), (D, State::Error)]);
    }

    #[test]
    fn what_a_check_says_of_one_object_is_joined_and_its_findings_stand_alone() {
        let mut diagnosis = Diagnosis::new();
        for (object, text) in [("x", "1"), ("y", "2"), ("x", "3")] {
            diagnosis.pass(A, object, text);
        }
        diagnosis.add(Finding::new(A, "x", "wrong", "mend"));
        let found: Vec<_> = diagnosis
            .settle(&ALL, &[])
            .into_iter()
            .filter(|entry| entry.code == A)
            .map(|entry| match entry.cause {
                Some(Cause::Said(text)) => (entry.object.unwrap(), text),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [("x", "1; 3"), ("y", "2"), ("x", "wrong")];
        assert_eq!(found, expected.map(|(object, text)| (object.to_owned(), text.to_owned())));
    }
}
