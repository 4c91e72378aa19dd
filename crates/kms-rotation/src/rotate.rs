//! A rotation from its beginning to its end.

use kms_core::{KmsProvider, Result};

use crate::{Observer, Options, Osd, Report, run::Run, state::State};

/// Gives the OSD a new KEK, and removes the old one at the end of the grace period.
///
/// At every moment, however the run ends, the KEK that the KMS returns opens every device. The next run finishes what
/// this one leaves behind.
///
/// # Errors
///
/// `Conflict` if another process is at work on a device, if the KEK that the KMS holds does not open a device (nothing
/// is changed then), or if another writer has changed the KEK meanwhile; `PermissionDenied` and `Unsupported` before
/// anything is written; errors of the KMS and of the devices. Each error says what it leaves on the devices.
pub async fn rotate(
    kms: &dyn KmsProvider,
    osd: &Osd,
    options: &Options,
    observer: &dyn Observer,
) -> Result<Report> {
    let run = Run::new(kms, osd, options, observer);
    let rotated = async {
        let _locks = run.lock().await?;
        let mut state = State::Start;
        loop {
            state = match run.advance(state).await? {
                State::Ended(report) => return Ok(*report),
                paused => run.wait(paused).await,
            };
        }
    };
    rotated.await.map_err(|error| run.annotate_error(error))
}

impl Run<'_> {
    /// Goes from state to state, up to the next pause or to the end.
    pub(crate) async fn advance(&self, mut state: State) -> Result<State> {
        loop {
            state = match self.next(state).await? {
                paused @ (State::Young(_) | State::Grace(_) | State::Ended(_)) => return Ok(paused),
                next => next,
            };
        }
    }

    /// Waits for the end of a pause. Returns the state after it.
    pub(crate) async fn wait(&self, paused: State) -> State {
        if let Some(until) = paused.until() {
            self.wait_until(until).await;
        }
        paused.woken()
    }

    /// The transition out of a state.
    async fn next(&self, state: State) -> Result<State> {
        match state {
            State::Start => self.survey().await,
            State::Rehearsal(found) => self.rehearse(*found).await,
            State::Surveyed(found) => self.sort_leftovers(*found).await,
            State::Obsolete(found) => self.remove_obsolete(*found).await,
            State::Grown(young) => self.survey_again(young).await,
            State::Outlived(found) => self.finish_earlier(*found).await,
            State::Clean(found) => self.permit(*found).await,
            State::Permitted(found) => self.add_new(*found).await,
            State::Added(attempt) => self.store(*attempt).await,
            State::Unclear(attempt, cause) => self.settle(*attempt, cause).await,
            State::Stored(attempt, version) => self.confirm(*attempt, version).await,
            State::Switched(switched, fresh) => self.keep_or_remove(*switched, *fresh).await,
            State::Expired(switched) => self.remove_after_grace(*switched).await,
            paused @ (State::Young(_) | State::Grace(_) | State::Ended(_)) => Ok(paused),
        }
    }
}
