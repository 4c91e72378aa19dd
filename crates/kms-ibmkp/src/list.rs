//! Lists the names of our keys, page by page.

use std::collections::{BTreeSet, VecDeque};

use futures_util::stream;
use kms_core::{Error, ErrorKind, KeyInfo, KeyName, KeyStream, Result};

use crate::{
    api::{Api, States, Want},
    get::locate,
    name::{Names, key_name},
    pages::Pages,
    stored::Key,
};

/// The progress of a list.
struct State<'a> {
    pages: Pages<'a>,
    ready: VecDeque<KeyInfo>,
    /// The names that the list has yielded or is about to yield.
    shown: BTreeSet<KeyName>,
    /// Names of keys without an alias. Only after all pages is it known whether another key of the name has the alias;
    /// if not, a look-up tells whether one of them is the key or all are superseded.
    unaliased: BTreeSet<KeyName>,
    done: bool,
    /// Why keys may be missing.
    cut: Option<Error>,
}

pub(crate) fn list(api: &Api) -> KeyStream<'_> {
    let state = State {
        pages: Pages::new(api, States::Alive, None),
        ready: VecDeque::new(),
        shown: BTreeSet::new(),
        unaliased: BTreeSet::new(),
        done: false,
        cut: None,
    };
    Box::pin(stream::try_unfold(state, move |mut state| async move {
        loop {
            if let Some(info) = state.ready.pop_front() {
                return Ok(Some((info, state)));
            }
            if state.done {
                return state.cut.take().map_or(Ok(None), Err);
            }
            next_page(api, &mut state).await?;
        }
    }))
}

async fn next_page(api: &Api, state: &mut State<'_>) -> Result<()> {
    let keys = match state.pages.next().await.map_err(Error::from) {
        // The keys that were found are shown first.
        Err(error) if error.kind() == ErrorKind::Incomplete => {
            state.cut = Some(error);
            None
        }
        keys => keys?,
    };
    state.done = keys.is_none();
    for key in keys.into_iter().flatten() {
        let Some(name) = name_of(api, &key) else { continue };
        let names = Names::of(&name);
        if !key.has_only_our_aliases(&names) || state.shown.contains(&name) {
            continue;
        }
        if key.has_alias(&names.alias) {
            state.unaliased.remove(&name);
            state.ready.push_back(info(name.clone(), &key));
            state.shown.insert(name);
        } else {
            state.unaliased.insert(name);
        }
    }
    if state.done {
        for name in std::mem::take(&mut state.unaliased) {
            let located = match locate(api, &Names::of(&name), Want::Metadata).await {
                Err(error) if error.kind() == ErrorKind::Incomplete => {
                    state.cut.get_or_insert(error);
                    continue;
                }
                located => located?,
            };
            if let Some(key) = located.key().filter(|key| key.check_reader(api.cluster.as_ref()).is_ok()) {
                state.ready.push_back(info(name, &key));
            }
        }
    }
    Ok(())
}

/// The name of a key in Rook's form or with our tags. `None` for other keys, and for keys with another cluster's tag.
fn name_of(api: &Api, key: &Key) -> Option<KeyName> {
    if key.id.is_empty()
        || !key.is_extractable()
        || key.is_destroyed()
        || key.check_reader(api.cluster.as_ref()).is_err()
    {
        return None;
    }
    key_name(key.name.as_deref()?, key.tags())
}

fn info(name: KeyName, key: &Key) -> KeyInfo {
    KeyInfo::new(name).with_version(key.version()).with_times(None, key.created()).with_state(key.mark())
}
