//! What earlier work has left untidy: how many findings of a check a file may have, to be brought down to nothing.

use std::collections::BTreeMap;

/// The check, the file that its findings begin with, and their number.
const LEFT: [(&str, &str, usize); 0] = [];

/// What is left of the findings of a check after its allowances. An allowance is exact, so that it shrinks with the
/// findings.
pub(super) fn beyond(check: &str, found: Vec<String>) -> Vec<String> {
    beyond_allowances(check, found, &LEFT)
}

fn beyond_allowances(check: &str, found: Vec<String>, left: &[(&str, &str, usize)]) -> Vec<String> {
    let mut by_file: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for problem in found {
        by_file.entry(file_of(&problem)).or_default().push(problem);
    }
    for (_, file, allowed) in left.iter().filter(|(name, ..)| *name == check) {
        let here = by_file.entry((*file).to_owned()).or_default();
        if here.len() == *allowed {
            here.clear();
        } else if here.len() < *allowed {
            *here = vec![format!("{file}: {check}: {} left: lower the allowance of {allowed}", here.len())];
        }
    }
    by_file.into_values().flatten().collect()
}

/// The file that a finding begins with.
fn file_of(problem: &str) -> String {
    let problem = problem.strip_prefix("imports go in a circle: ").unwrap_or(problem);
    problem.split([':', ' ']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_exact_and_for_its_check_and_file() {
        let found = || vec!["a.rs:1: x".to_owned(), "a.rs and b.rs y".to_owned(), "c.rs: z".to_owned()];
        let beyond = |allowed| beyond_allowances("x", found(), &[("x", "a.rs", allowed), ("y", "c.rs", 1)]);
        assert_eq!(beyond(2), ["c.rs: z"]);
        assert_eq!(beyond(1).len(), 3);
        assert_eq!(beyond(3), ["a.rs: x: 2 left: lower the allowance of 3", "c.rs: z"]);
        let none = beyond_allowances("x", Vec::new(), &[("x", "a.rs", 1)]);
        assert_eq!(none, ["a.rs: x: 0 left: lower the allowance of 1"]);
    }
}
