//! Checks that citations and links resolve: sections of `docs/rook-behaviour.md`, field reports, decisions, Markdown
//! links.

use std::collections::BTreeSet;

use super::workspace::{File, Workspace};

const ROOK: &str = "docs/rook-behaviour.md";
const REPORTS: &str = "docs/field-reports.md";
const THREATS: &str = "docs/threat-model.md";

/// This file contains the old forms.
const HERE: &str = "xtask/src/tidy/references.rs";

/// Texts that a reader does not have.
const UNKNOWN: [&str; 4] = ["house style", "our notes", "servers.md", "the card"];

pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let known = Known::of(workspace);
    let mut found = Vec::new();
    for file in workspace.files.iter().filter(|file| file.path != HERE) {
        found.extend(citations(file, &known));
        if file.is("md") {
            found.extend(links(file, workspace));
        }
        if file.path == REPORTS || file.path == THREATS {
            found.extend(missing_tests(file, workspace));
        }
    }
    found
}

/// The targets that a citation may have.
#[derive(Debug, Default)]
struct Known {
    /// `§6.4`, `W16` and `appendix B`.
    rook: BTreeSet<String>,
    /// `UP-111` and `SR-05`.
    reports: BTreeSet<String>,
    /// `0008`.
    decisions: BTreeSet<String>,
}

impl Known {
    fn of(workspace: &Workspace) -> Self {
        let mut known = Self::default();
        for anchor in workspace.get(ROOK).map(anchors).unwrap_or_default() {
            if let Some(section) = anchor.strip_prefix('s').filter(|rest| rest.starts_with(digit)) {
                known.rook.insert(format!("§{}", section.replace('-', ".")));
            } else if let Some(number) = anchor.strip_prefix('w').filter(|rest| rest.starts_with(digit)) {
                known.rook.insert(format!("W{number}"));
            } else if let Some(letter) = anchor.strip_prefix("appendix-") {
                known.rook.insert(format!("appendix {}", letter.to_uppercase()));
            }
        }
        let reports = workspace.get(REPORTS).map(anchors).unwrap_or_default();
        known.reports = reports.into_iter().map(|anchor| anchor.to_uppercase()).collect();
        for file in &workspace.files {
            let name = file.path.strip_prefix("docs/decisions/");
            known.decisions.extend(name.and_then(|name| name.split('-').next()).map(str::to_owned));
        }
        known
    }
}

fn digit(one: char) -> bool {
    one.is_ascii_digit()
}

/// A citation, and its place in the line.
#[derive(Debug, PartialEq)]
struct Citation {
    at: usize,
    end: usize,
    text: String,
}

/// Finds citations that do not resolve, or that do not name their source.
fn citations(file: &File, known: &Known) -> Vec<String> {
    // Inside either page, entries of that page need no name of the page.
    let (in_rook, in_reports) = (file.path == ROOK, file.path == REPORTS);
    let mut found = Vec::new();
    let mut carried = None;
    for (number, line) in file.text.lines().enumerate() {
        let mut tell = |problem: String| found.push(format!("{}:{}: {problem}", file.path, number + 1));
        // The source of the list of citations that is being read. A list may continue on the next line.
        let mut source = carried.take();
        let mut behind = 0;
        let body = line.trim_start().trim_start_matches(['/', '!', '#']).trim_start();
        behind += line.len() - body.len();
        for citation in cited(line) {
            let between = line.get(behind..citation.at).unwrap_or_default();
            let named = ["rook-behaviour", "field-reports"].into_iter().find(|name| names(between, name));
            source = named.or_else(|| source.filter(|_| joins(between)));
            behind = citation.end;
            let problem = unresolved(&citation.text, source, (in_rook, in_reports), known);
            problem.into_iter().for_each(&mut tell);
        }
        let rest = line.get(behind..).unwrap_or_default();
        carried = ["rook-behaviour", "field-reports"].into_iter().find(|name| names(rest, name));
        carried = carried.or_else(|| source.filter(|_| joins(rest)));
        for old in UNKNOWN {
            if has_word(&line.to_lowercase(), old) {
                tell(format!("\"{old}\" is not in this repository"));
            }
        }
        for word in ["spec ", "contract "] {
            if old_section(line, word) {
                tell(format!("\"{word}\" and a number: write: rook-behaviour § and the number"));
            }
        }
        for number in decisions(line) {
            if !known.decisions.contains(number) {
                tell(format!("there is no decision {number}"));
            }
        }
    }
    found
}

/// Describes the fault of a citation from the page `source`, in one of the two pages or elsewhere.
fn unresolved(
    text: &str,
    source: Option<&str>,
    (in_rook, in_reports): (bool, bool),
    known: &Known,
) -> Option<String> {
    let is_report = text.starts_with("UP-") || text.starts_with("SR-");
    if is_report {
        let cited = source == Some("field-reports");
        return match in_reports || cited {
            true => (!known.reports.contains(text)).then(|| format!("{REPORTS} has no {text}")),
            false => Some(format!("{text}: write: field-reports {text}")),
        };
    }
    if in_rook || source == Some("rook-behaviour") {
        return (!known.rook.contains(text)).then(|| format!("{ROOK} has no {text}"));
    }
    // Other specifications have sections and appendices too.
    text.starts_with('W').then(|| format!("{text}: write: rook-behaviour {text}"))
}

/// Whether a text ends with the name of a page, before its sections: `rook-behaviour `, `(rook-behaviour\n`.
fn names(text: &str, page: &str) -> bool {
    let text = text.trim_end_matches(|one: char| one.is_whitespace() || "`(:[".contains(one));
    text.ends_with(page) || text.ends_with(&format!("{page}.md"))
}

/// Whether a text only separates two citations of one list.
fn joins(text: &str) -> bool {
    let words = text.split(|one: char| one.is_whitespace() || ",;".contains(one));
    words.filter(|word| !word.is_empty()).all(|word| ["and", "or", "to", "\\"].contains(&word))
}

/// Finds everything in a line that looks like `§6.4`, `W16`, `UP-111`, `SR-05` or `appendix B`, from left to right.
fn cited(line: &str) -> Vec<Citation> {
    let mut found = Vec::new();
    for (at, one) in line.char_indices() {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        if before.is_some_and(|before| before.is_alphanumeric() || "_-#/".contains(before)) && one != '§' {
            continue;
        }
        let rest = line.get(at..).unwrap_or_default();
        for start in ["§", "W", "UP-", "SR-", "appendix "] {
            let Some(tail) = rest.strip_prefix(start) else { continue };
            let is_letter = start == "appendix ";
            let more = |one: char| match start {
                "§" => digit(one) || one == '.',
                "appendix " => one.is_ascii_uppercase(),
                _ => digit(one),
            };
            let end = tail.find(|one| !more(one)).unwrap_or(tail.len());
            let number = tail.get(..end).unwrap_or_default().trim_end_matches('.');
            let next = tail.get(end..).and_then(|tail| tail.chars().next());
            let whole = !next.is_some_and(|next| next.is_alphanumeric() || "_<".contains(next));
            let short = start != "W" || number.len() <= 2;
            if !number.is_empty() && whole && short && (!is_letter || number.len() == 1) {
                let text = format!("{start}{number}");
                found.push(Citation { at, end: at + text.len(), text });
            }
        }
    }
    found
}

/// Whether `line` contains `word` as a whole word.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let next = line.get(at + word.len()..).and_then(|rest| rest.chars().next());
        !before.into_iter().chain(next).any(char::is_alphanumeric)
    })
}

/// Whether a line contains `spec 6.4` or `contract 19.2`: a section number of a text that readers do not have.
fn old_section(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line.get(..at).and_then(|before| before.chars().next_back());
        let rest = line.get(at + word.len()..).unwrap_or_default();
        let rest = rest.strip_prefix('W').unwrap_or(rest);
        !before.is_some_and(char::is_alphanumeric) && rest.starts_with(digit)
    })
}

/// The numbers of decisions that a line cites.
fn decisions(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("ecision ").filter_map(|(at, word)| {
        let number = line.get(at + word.len()..)?.get(..4)?;
        number.chars().all(digit).then_some(number)
    })
}

/// The anchors of a Markdown file: explicit ones, and those that code hosts generate from headings.
fn anchors(file: &File) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in prose(&file.text).map(|(_, line)| line) {
        for (at, start) in line.match_indices("<a id=\"") {
            let rest = line.get(at + start.len()..).unwrap_or_default();
            found.extend(rest.split_once('"').map(|(id, _)| id.to_owned()));
        }
        let Some(heading) = line.strip_prefix('#') else { continue };
        let slug: String = heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|one| one.is_alphanumeric() || " -_".contains(*one))
            .map(|one| if one == ' ' { '-' } else { one })
            .collect();
        let again = found.iter().filter(|anchor| **anchor == slug).count();
        found.push(if again == 0 { slug } else { format!("{slug}-{again}") });
    }
    found
}

/// The lines of a Markdown file outside code blocks, with their numbers.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut fenced = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let fence = line.trim_start().starts_with("```");
        fenced ^= fence;
        !fenced && !fence
    })
}

/// Finds links of a Markdown file whose target is not in this repository.
fn links(file: &File, workspace: &Workspace) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in prose(&file.text) {
        for (at, start) in line.match_indices("](") {
            let rest = line.get(at + start.len()..).unwrap_or_default();
            let Some((target, _)) = rest.split_once(')') else { continue };
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) =
                target.split_once('#').map_or((target, None), |(path, anchor)| (path, Some(anchor)));
            let path = if path.is_empty() { file.path.clone() } else { beside(&file.path, path) };
            let folder = format!("{path}/");
            let is_folder = workspace.files.iter().any(|file| file.path.starts_with(&folder));
            match (workspace.get(&path), anchor) {
                (None, None) if is_folder => (),
                (None, _) => found.push(format!("{}:{}: no file {path}", file.path, number + 1)),
                (Some(other), Some(anchor)) if !anchors(other).iter().any(|known| known == anchor) => {
                    found.push(format!("{}:{}: {path} has no #{anchor}", file.path, number + 1));
                }
                _ => (),
            }
        }
    }
    found
}

/// Finds nonexistent tests that a report names in the last cell of its row, or in a line that begins with "Tests.".
/// Tests that are named by file are links, which another check covers.
fn missing_tests(file: &File, workspace: &Workspace) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        let row = line.strip_prefix("| <a id=").map(|row| row.trim_end_matches(['|', ' ']));
        let cell = row.and_then(|row| row.rsplit('|').next()).or_else(|| line.strip_prefix("**Tests.**"));
        let Some(tests) = cell else { continue };
        let names: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            found.push(format!("{}:{}: names no test", file.path, number + 1));
        }
        for name in names.into_iter().filter(|name| !name.contains('.')) {
            let signature = format!("fn {name}(");
            let exists = workspace.files.iter().any(|file| file.is("rs") && file.text.contains(&signature));
            if !exists {
                found.push(format!("{}:{}: there is no test {name}", file.path, number + 1));
            }
        }
    }
    found
}

/// Resolves `link` relative to the file at `from`.
fn beside(from: &str, link: &str) -> String {
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    for part in link.trim_end_matches('/').split('/') {
        match part {
            "." => (),
            ".." => _ = parts.pop(),
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Workspace::of(&[
            (
                ROOK,
                "<a id=\"s6-4\"></a>\n\n## 6.4 Codes (§6.4)\n\n| <a id=\"w16\"></a>W16 |\n<a id=\"appendix-b\"></a>\n",
            ),
            (REPORTS, "<a id=\"up-111\"></a>UP-111\n<a id=\"sr-05\"></a>SR-05\n"),
            ("docs/decisions/0008-rotation.md", "# Rotation\n"),
            (path, text),
        ]))
    }

    #[test]
    fn citations_that_resolve_are_fine() {
        let text = "// (rook-behaviour §6.4 and W16, appendix B)\n// as in rook-behaviour\n// §6.4; decision 0008\n\
                    // field-reports UP-111, SR-05; KMIP 1.4 §4.26\n// `docs/rook-behaviour.md` §6.4\n";
        assert_eq!(found("a.rs", text), Vec::<String>::new());
    }

    #[test]
    fn citations_that_do_not_resolve_are_found() {
        for text in [
            "rook-behaviour §6.5",
            "rook-behaviour W17",
            "rook-behaviour §6.4 and W17",
            "rook-behaviour appendix C",
            "field-reports UP-1",
            "decision 0009",
            "Decision 0009",
        ] {
            assert_eq!(found("a.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn old_forms_are_found() {
        for text in [
            "// (spec 6.4)",
            "// (W16)",
            "// UP-111: x",
            "# every problem (SR-05)",
            "the card says",
            "The house style",
            "our notes",
            "see servers.md B",
            "contract 19.2",
            "rook-behaviour §6.4. A KEK before KMIP (W16)",
        ] {
            assert_eq!(found("a.toml", text).len(), 1, "{text}");
        }
        assert_eq!(found("a.rs", "// a spec of ours, SHA-W1, W, UP-x, W123, aW16, the cardinality").len(), 0);
    }

    #[test]
    fn a_page_may_name_its_own_entries() {
        assert_eq!(found("b.rs", "").len(), 0);
        let own = check(&Workspace::of(&[(ROOK, "<a id=\"s1\"></a>\n§1 and §2\n")]));
        assert_eq!(own, ["docs/rook-behaviour.md:2: docs/rook-behaviour.md has no §2"]);
    }

    #[test]
    fn a_report_needs_a_test_that_exists() {
        let row = |tests: &str| {
            let text = format!("| <a id=\"up-1\"></a>UP-1 | [x](https://x.org) | `y` | {tests} |\n");
            check(&Workspace::of(&[(REPORTS, &text), ("a.rs", "fn it_works() {}\n"), ("docs/a.toml", "")]))
                .len()
        };
        let threats = check(&Workspace::of(&[(THREATS, "**Tests.** `it_fails`\n")]));
        assert_eq!(threats, ["docs/threat-model.md:1: there is no test it_fails"]);
        assert_eq!((row("`it_works`, [`a.toml`](a.toml)"), row("`it_fails`"), row("")), (0, 1, 1));
    }

    #[test]
    fn links_need_their_file_and_their_anchor() {
        for good in
            ["[a](../docs/rook-behaviour.md#s6-4)", "[b](#a-b-c)", "[c](../docs/)", "[d](https://x.org/#y)"]
        {
            assert!(found("crates/README.md", &format!("# A `b`: c\n{good}\n")).is_empty(), "{good}");
        }
        for bad in ["[a](../docs/none.md)", "[b](#d)", "[c](../docs/rook-behaviour.md#s9)"] {
            assert_eq!(found("crates/README.md", &format!("# A `b`: c\n{bad}\n")).len(), 1, "{bad}");
        }
        assert!(found("crates/README.md", "```text\n[a](none.md)\n```\n").is_empty());
    }
}
