//! Finds duplicated logic: runs of lines of the same shape in two providers, or in two doubles.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    imports::CrateFiles,
    lexer::{Kind, Token},
    roles::PROVIDERS,
    workspace::{File, Workspace},
};

/// The minimum length of a run, in code lines, for both places to count as shared logic.
const RUN: usize = 12;

/// A run with fewer different lines than this is a table: data, not logic.
const VARIETY: usize = 6;

/// Words that keep their text in a line's shape; every other word may differ.
const KEYWORDS: [&str; 36] = [
    "Err", "None", "Ok", "Self", "Some", "as", "async", "await", "break", "const", "continue", "crate",
    "else", "enum", "fn", "for", "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub",
    "ref", "return", "self", "static", "struct", "super", "trait", "type", "where", "while",
];

/// A line of code: its number, and its tokens with names, strings and numbers made equal.
#[derive(Debug)]
struct Line {
    number: usize,
    shape: String,
}

/// The lines of one file.
#[derive(Debug)]
struct Lines<'a> {
    owner: &'a str,
    path: &'a str,
    lines: Vec<Line>,
}

/// Finds runs that two providers or two doubles share.
pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let mut providers = Vec::new();
    for name in PROVIDERS {
        for file in CrateFiles::of(workspace, name).files() {
            providers.push(lines_of(name, file));
        }
    }
    let mut doubles = Vec::new();
    for file in CrateFiles::of(workspace, "kms-testkit").files() {
        let inside = file.in_crate().and_then(|(_, inside)| inside.strip_prefix("fake/"));
        if let Some((service, _)) = inside.and_then(|inside| inside.split_once('/')) {
            doubles.push(lines_of(service, file));
        }
    }
    [shared(&providers), shared(&doubles)].concat()
}

fn lines_of<'a>(owner: &'a str, file: &'a File) -> Lines<'a> {
    let mut shapes: BTreeMap<usize, String> = BTreeMap::new();
    let mut importing = false;
    for token in file.tokens() {
        // Skips imports: two files may well use the same things.
        importing |= token.is("use");
        if !importing {
            let shape = shapes.entry(token.line).or_default();
            shape.push_str(shape_of(&token));
            shape.push(' ');
        }
        importing &= !token.is(";");
    }
    let lines = shapes.into_iter().map(|(number, shape)| Line { number, shape }).collect();
    Lines { owner, path: &file.path, lines }
}

fn shape_of(token: &Token) -> &str {
    match token.kind {
        Kind::Literal => "0",
        Kind::Word if KEYWORDS.contains(&token.text.as_str()) => &token.text,
        Kind::Word => "x",
        Kind::Mark => &token.text,
    }
}

fn shared(files: &[Lines<'_>]) -> Vec<String> {
    let mut places: BTreeMap<Vec<&str>, Vec<(usize, usize)>> = BTreeMap::new();
    for (index, file) in files.iter().enumerate() {
        for (at, window) in file.lines.windows(RUN).enumerate() {
            let shapes: Vec<&str> = window.iter().map(|line| line.shape.as_str()).collect();
            if shapes.iter().collect::<BTreeSet<_>>().len() >= VARIETY {
                places.entry(shapes).or_default().push((index, at));
            }
        }
    }
    let mut starts = BTreeSet::new();
    for same in places.values() {
        for (number, one) in same.iter().enumerate() {
            for other in same.iter().skip(number + 1) {
                let owner = |place: &(usize, usize)| files.get(place.0).map(|file| file.owner);
                if owner(one) != owner(other) {
                    starts.insert((*one, *other));
                }
            }
        }
    }
    let mut found = Vec::new();
    for &(one, other) in &starts {
        let before = |(file, at): (usize, usize)| Some((file, at.checked_sub(1)?));
        // Reports only the beginning of a run; the following windows continue it.
        if before(one).zip(before(other)).is_some_and(|pair| starts.contains(&pair)) {
            continue;
        }
        let (Some(first), Some(second)) = (files.get(one.0), files.get(other.0)) else { continue };
        let rest = |file: &Lines<'_>, at: usize| -> Vec<String> {
            file.lines.iter().skip(at).map(|line| line.shape.clone()).collect()
        };
        let length =
            rest(first, one.1).iter().zip(&rest(second, other.1)).take_while(|(a, b)| a == b).count();
        let line = |file: &Lines<'_>, at: usize| file.lines.get(at).map_or(0, |line| line.number);
        found.push(format!(
            "{}:{} and {}:{} share {length} lines of the same shape",
            first.path,
            line(first, one.1),
            second.path,
            line(second, other.1)
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function of `lines` lines, each of a different shape, with names that begin with `name`.
    fn function(name: &str, lines: usize) -> String {
        let body: String = (0..lines - 2)
            .map(|line| format!("    {name}{line}({});\n", vec!["1"; line].join(", ")))
            .collect();
        format!("fn {name}() {{\n{body}}}\n")
    }

    fn found(one: &str, other: &str) -> Vec<String> {
        check(&Workspace::of(&[("crates/kms-vault/src/lib.rs", one), ("crates/kms-azure/src/lib.rs", other)]))
    }

    #[test]
    fn twelve_lines_of_the_same_shape_are_found_whatever_their_names() {
        let found = found(&function("a", 12), &format!("struct S;\n{}", function("b", 12)));
        assert_eq!(
            found,
            [
                "crates/kms-azure/src/lib.rs:2 and crates/kms-vault/src/lib.rs:1 share 12 lines of the same shape"
            ]
        );
    }

    #[test]
    fn a_longer_run_is_found_once() {
        let found = found(&function("a", 20), &function("b", 20));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found.concat().contains("share 20 lines"), "{found:?}");
    }

    #[test]
    fn eleven_lines_imports_and_tables_are_no_runs() {
        assert!(found(&function("a", 11), &format!("{}struct S {{ a: u8 }}", function("b", 11))).is_empty());
        let imports = "use a::{\n    b,\n    c,\n};\n".repeat(6);
        assert!(found(&imports, &imports).is_empty());
        let table = format!("const T: &[u8] = &[\n{}];\n", "    1,\n".repeat(20));
        assert!(found(&table, &table).is_empty());
    }

    #[test]
    fn two_doubles_are_compared_too_and_one_with_itself_is_not() {
        let double = |service: &str| format!("crates/kms-testkit/src/fake/{service}/mod.rs");
        let (one, two) = (double("one"), double("two"));
        let code = function("a", 14);
        let doubles = Workspace::of(&[
            ("crates/kms-testkit/src/lib.rs", "mod fake;"),
            ("crates/kms-testkit/src/fake/mod.rs", "mod one; mod two;"),
            (&one, &code),
            (&two, &code),
        ]);
        assert_eq!(check(&doubles).len(), 1);
        assert!(found(&format!("{code}{code}"), "").is_empty());
    }
}
