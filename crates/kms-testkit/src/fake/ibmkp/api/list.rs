//! Listing, counting, searching.

use serde_json::json;

use super::{Call, KEY_TYPE, envelope, reason};
use crate::fake::{
    http::Response,
    ibmkp::{
        search::Search,
        world::{Key, Total, World},
    },
};

/// The parameters of a list.
const PARAMETERS: [&str; 7] = ["limit", "offset", "state", "extractable", "search", "sort", "filter"];

fn wrong(message: &str) -> Response {
    reason(400, "INVALID_QUERY_PARAM_ERR", message)
}

impl World {
    pub(super) fn count(&self, call: &Call<'_>) -> Response {
        match self.selected(call) {
            Ok((found, _)) => Response::status(200).header("key-total", found.len().to_string()),
            Err(refused) => refused,
        }
    }

    pub(super) fn list(&self, call: &Call<'_>) -> Response {
        match self.listed(call) {
            Ok(answer) => answer,
            Err(refused) => refused,
        }
    }

    fn listed(&self, call: &Call<'_>) -> Result<Response, Response> {
        let number = |name: &str, default: usize| match call.param(name) {
            None => Ok(default),
            Some(text) => {
                text.parse::<usize>().map_err(|_error| wrong("The query_param must be: an integer"))
            }
        };
        let limit = number("limit", 200)?;
        if !(1..=5000).contains(&limit) {
            return Err(wrong("The query_param must be: an integer between 1 and 5000 (inclusive)"));
        }
        let offset = number("offset", 0)?;
        let (found, incomplete) = self.selected(call)?;
        let total = found.len();
        let page = found
            .into_iter()
            .skip(if self.switches.ignores_offset { 0 } else { offset })
            .take(limit.min(self.switches.longest_page))
            .map(|key| {
                self.shown(
                    &Key { state: self.listed_state(key), deleted: self.listed_deletion(key), ..key.clone() },
                    false,
                )
            })
            .collect();
        let mut body = envelope(KEY_TYPE, page);
        match self.switches.total {
            Total::OfPage => {}
            Total::OfList => body["metadata"]["collectionTotal"] = json!(total),
            Total::Absent => _ = body["metadata"].as_object_mut().map(|of| of.remove("collectionTotal")),
        }
        if incomplete {
            body["metadata"]["incompleteSearch"] = json!(true);
        }
        if let Some(search) = call.param("search") {
            body["metadata"]["searchQuery"] = json!({"query": search});
        }
        Ok(Response::value(200, body))
    }

    /// The state of a key in lists.
    fn listed_state(&self, key: &Key) -> u8 {
        if self.switches.late_lists && key.state == 5 { 1 } else { key.state }
    }

    /// The time of a key's deletion in lists.
    fn listed_deletion(&self, key: &Key) -> Option<i64> {
        key.deleted.filter(|_| !self.switches.late_lists)
    }

    /// The selected keys, by id, and whether the search was incomplete.
    fn selected(&self, call: &Call<'_>) -> Result<(Vec<&Key>, bool), Response> {
        if let Some((unknown, _)) = call.query.iter().find(|(name, _)| !PARAMETERS.contains(&name.as_str())) {
            return Err(wrong(&format!("The query_param `{unknown}` is not known")));
        }
        if call.param("filter").is_some_and(|filter| !filter.is_empty()) {
            return Err(wrong("This double knows no filter"));
        }
        // IBM does not document whether a list shows destroyed keys by default; presumably not. The Python client sends
        // an empty state.
        let states = call.param("state").filter(|states| !states.is_empty()).unwrap_or("0,1,2,3");
        let states: Option<Vec<u8>> = states.split(',').map(|state| state.parse().ok()).collect();
        let states = states.filter(|states| states.iter().all(|state| matches!(state, 0..=3 | 5)));
        let states = states.ok_or_else(|| wrong("The query_param must be: a list of 0, 1, 2, 3, 5"))?;
        let extractable = match call.param("extractable") {
            None | Some("") => None,
            Some(text) => {
                let wanted = text.to_lowercase().parse::<bool>();
                Some(wanted.map_err(|_error| wrong("The query_param must be: a boolean"))?)
            }
        };
        let candidates: Vec<&Key> = self
            .keys
            .values()
            .filter(|key| states.contains(&self.listed_state(key)))
            .filter(|key| extractable.is_none_or(|wanted| key.extractable == wanted))
            .filter(|key| call.ring().is_none_or(|ring| ring == key.ring))
            .collect();
        let Some(text) = call.param("search").filter(|text| !text.is_empty()) else {
            return Ok((candidates, false));
        };
        let search = Search::of(text);
        let direct = candidates
            .iter()
            .copied()
            .find(|key| key.id == search.text || (search.alias && key.aliases.contains(&search.text)));
        if candidates.len() > self.switches.search_limit {
            return match direct {
                Some(key) => Ok((vec![key], true)),
                None => Err(reason(
                    400,
                    "KEY_SEARCH_TOO_BROAD",
                    "The search is too broad; narrow it by state, extractable or key ring",
                )),
            };
        }
        let others = candidates
            .into_iter()
            .filter(|key| search.finds(key) && direct.is_none_or(|found| found.id != key.id));
        Ok((direct.into_iter().chain(others).collect(), false))
    }
}
