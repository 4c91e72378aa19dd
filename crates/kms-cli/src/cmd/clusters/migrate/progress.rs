//! Shows how far a step over many keys is.

use kms_core::{Error, KeyName, Result};
use kms_migrate::Observer;
use serde::Serialize;

use crate::{
    output::{Tone, chain, on_stderr},
    progress::{Progress, is_due},
};

/// How far a step is.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Reached {
    pub(crate) done: usize,
    pub(crate) keys: usize,
}

impl Observer for Progress {
    fn ended(&self, name: &KeyName, outcome: Result<&'static str, &Error>, done: usize, total: usize) {
        if let Err(error) = outcome {
            self.line(format_args!("{}  {name}: {}", on_stderr(Tone::Bad, "FAILED"), chain(error)));
        }
        self.reached("keys", done, total);
        if is_due(done, total) {
            self.document(&Reached { done, keys: total });
        }
    }
}
