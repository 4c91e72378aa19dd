//! Collects the problems of a configuration.

use crate::{Error, ErrorKind, Result};

/// The problems of a configuration.
#[derive(Debug, Default)]
pub struct Problems(Vec<String>);

impl Problems {
    /// No problem yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a problem. Its text names the setting and says what to do, and never quotes a value.
    pub fn add(&mut self, problem: impl Into<String>) {
        let problem = problem.into();
        if !self.0.contains(&problem) {
            self.0.push(problem);
        }
    }

    /// Returns the value of a result. If the result is an error of the configuration (`ConfigInvalid`, `NotFound`),
    /// adds the error as a problem and returns `None`.
    ///
    /// # Errors
    ///
    /// The error itself if it has another kind.
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

    /// Combines these problems with an error that ended the search for more problems.
    pub fn with(mut self, error: Error) -> Error {
        if self.is_empty() {
            return error;
        }
        self.add(error.to_string());
        self.into_result().err().unwrap_or(error)
    }

    /// Whether no problem was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The problems, in the order in which they were found.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Fails with all problems as one error.
    ///
    /// # Errors
    ///
    /// `ConfigInvalid` if there are problems.
    pub fn into_result(self) -> Result<()> {
        match self.0.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::config(one.clone())),
            many => Err(Error::config(format!("{} problems: {}", many.len(), many.join("; ")))),
        }
    }
}
