//! What is wrong with a configuration, all of it.

use crate::{Error, ErrorKind, Result};

/// Everything that is wrong with a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// No problem yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Notes a problem. It names the setting and says what to do, and never quotes a value.
    pub fn add(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Notes an error that came up on the way, with its causes; errors of another kind than `ConfigInvalid` and
    /// `NotFound` are no problem of the configuration, and come back.
    ///
    /// # Errors
    ///
    /// As said above.
    pub fn absorb<T>(&mut self, setting: &str, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if matches!(error.kind(), ErrorKind::ConfigInvalid | ErrorKind::NotFound) => {
                self.add(format!("{setting}: {error}"));
                Ok(None)
            }
            Err(error) => Err(error.context("setting", setting)),
        }
    }

    /// These problems and the error that kept the rest from being looked for, as one error.
    pub fn with(mut self, error: Error) -> Error {
        if self.is_empty() {
            return error;
        }
        self.add(error.to_string());
        self.into_result().err().unwrap_or(error)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// All problems as one error.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there is any problem.
    pub fn into_result(self) -> Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::config(one.clone())),
            many => Err(Error::config(format!("{} problems: {}", many.len(), many.join("; ")))),
        }
    }
}
