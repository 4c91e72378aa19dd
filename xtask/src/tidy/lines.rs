//! Checks single lines and files: documentation, issue numbers, no paths of one machine, reasons.

use super::{
    size,
    workspace::{File, Workspace},
};

/// A file with more code lines than this, not counting tests, is worth a split.
const LONG: usize = 500;

pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let mut found = Vec::new();
    for file in &workspace.files {
        found.extend(undocumented(file));
        for (number, line) in file.text.lines().enumerate() {
            found.extend(line_faults(line).map(|fault| format!("{}:{}: {fault}", file.path, number + 1)));
        }
        if file.path.ends_with("/src/ledger.rs") {
            let empty = empty_reasons(&file.text);
            found.extend(empty.map(|line| format!("{}: an exception needs a reason: {line}", file.path)));
        }
    }
    found
}

/// Finds files that are worth a split. This is advice.
pub(super) fn long(workspace: &Workspace) -> Vec<String> {
    let rust = workspace.files.iter().filter(|file| file.is("rs") && !file.path.contains("/tests/"));
    rust.map(|file| (size::of_file(file), file))
        .filter(|(lines, _)| *lines > LONG)
        .map(|(lines, file)| format!("{}: {lines} code lines, more than {LONG}: consider a split", file.path))
        .collect()
}

fn undocumented(file: &File) -> Option<String> {
    // The documentation of a crate may be its README.
    let starts = ["//!", "#![doc = include_str!("];
    let documented = starts.iter().any(|start| file.text.starts_with(start));
    (file.is("rs") && !documented)
        .then(|| format!("{}: does not begin with its documentation (//!)", file.path))
}

/// Finds the faults of one line of any file.
fn line_faults(line: &str) -> impl Iterator<Item = &'static str> {
    // Split strings, so that this file does not find itself.
    let (todo, places) =
        (concat!("TO", "DO"), [concat!("/ho", "me/"), concat!("/ro", "ot/"), concat!("/wo", "rk/")]);
    let unnamed = line.match_indices(todo).any(|(at, _)| {
        let rest = line.get(at + todo.len()..).unwrap_or_default();
        let number = rest.strip_prefix("(#").and_then(|rest| rest.split_once(')')).map(|(number, _)| number);
        !number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
    });
    let absolute = places.iter().any(|place| {
        line.match_indices(place).any(|(at, _)| {
            // In the middle of a URL or of a longer path, these are not such paths.
            let before = line.get(..at).and_then(|before| before.chars().next_back());
            !before.is_some_and(|before| before.is_alphanumeric() || "._-*}".contains(before))
        })
    });
    let unnamed = unnamed.then_some("a note of work that is left names its issue: (#n)");
    let absolute = absolute.then_some("a path that exists on one machine only");
    unnamed.into_iter().chain(absolute)
}

/// The lines of the ledger's table that have an empty text.
fn empty_reasons(text: &str) -> impl Iterator<Item = &str> {
    let table = text.split_once("LEDGER:").map_or("", |(_, table)| table);
    let table = table.split_once("];").map_or("", |(table, _)| table);
    table
        .lines()
        .map(str::trim)
        .filter(|line| line.split('"').skip(1).step_by(2).any(|string| string.trim().is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_of_work_that_is_left_name_an_issue() {
        let note = |rest: &str| line_faults(&format!("// {}{rest}", concat!("TO", "DO"))).count();
        assert_eq!((note("(#12): x"), note(": x"), note("(me): x"), note("(#)")), (0, 1, 1, 1));
    }

    #[test]
    fn paths_of_machines_are_found_and_urls_are_not() {
        let home = concat!("/ho", "me/me/file");
        assert_eq!(line_faults(&format!("see {home}")).count(), 1);
        assert_eq!(line_faults(&format!("\"{home}\"")).count(), 1);
        assert_eq!(line_faults(&format!("https://example.org{home}")).count(), 0);
    }

    #[test]
    fn a_rust_file_begins_with_its_documentation() {
        assert!(undocumented(&File::new("a.rs", "//! The crate.\n")).is_none());
        assert!(undocumented(&File::new("a.rs", "#![doc = include_str!(\"../README.md\")]\n")).is_none());
        assert!(undocumented(&File::new("a.rs", "use a::b;\n")).is_some());
        assert!(undocumented(&File::new("a.md", "text\n")).is_none());
    }

    #[test]
    fn exceptions_without_a_reason_are_found() {
        let table = |reason: &str| {
            format!(
                "pub const LEDGER: &[E] = &[\n    E::new(\"vault\", \"case\", \"{reason}\"),\n];\nlet x = \"\";\n"
            )
        };
        assert_eq!(empty_reasons(&table("because")).count(), 0);
        assert_eq!(empty_reasons(&table(" ")).count(), 1);
    }
}
