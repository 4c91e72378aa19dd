//! The search of a list: `not:`, `exact:`, `escape:`, `name:` and `alias:` before a text, in any order.

use super::world::Key;

/// A search.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Search {
    not: bool,
    exact: bool,
    name: bool,
    pub(super) alias: bool,
    pub(super) text: String,
}

impl Search {
    pub(super) fn of(mut text: &str) -> Self {
        let mut search = Self::default();
        while let Some((prefix, rest)) = text.split_once(':') {
            match prefix {
                "not" => search.not = true,
                "exact" => search.exact = true,
                "name" => search.name = true,
                "alias" => search.alias = true,
                "escape" => {
                    text = rest;
                    break;
                }
                _ => break,
            }
            text = rest;
        }
        text.clone_into(&mut search.text);
        search
    }

    pub(super) fn finds(&self, key: &Key) -> bool {
        let wanted = self.text.to_lowercase();
        let fits = |text: &String| {
            let text = text.to_lowercase();
            if self.exact { text == wanted } else { text.contains(&wanted) }
        };
        // Without a scope both are searched; with both they are joined by OR.
        let everywhere = self.name == self.alias;
        let found = ((everywhere || self.name) && fits(&key.name))
            || ((everywhere || self.alias) && key.aliases.iter().any(fits));
        found != self.not
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_stand_in_any_order() {
        let key = Key { aliases: vec!["Alias-1".into()], ..Key::rook("Name-1", "") };
        for (search, found) in [
            ("name-1", true),
            ("ALIAS", true),
            ("exact:name", false),
            ("exact:name:name-1", true),
            ("name:exact:name-1", true),
            ("exact:alias:name-1", false),
            ("alias:alias", true),
            ("alias:name:exact:name-1", true),
            ("not:exact:name:name-1", false),
            ("not:foo", true),
            ("escape:not:foo", false),
            ("foo:bar", false),
        ] {
            assert_eq!(Search::of(search).finds(&key), found, "{search}");
        }
    }
}
