//! Finds phrases that make a reader stop, and suggests better ones: `docs/style.md`, Plain English.

use super::workspace::{File, Workspace};

/// Each phrase in lower case, and its replacement.
const PHRASES: [(&str, &str); 22] = [
    ("are told", "say what the message is about"),
    ("as good as missing", "write: is treated as absent"),
    ("be told", "say what the message is about"),
    ("come about", "say what makes the thing"),
    ("comes about", "say what makes the thing"),
    ("come to be", "say what makes the thing"),
    ("comes to be", "say what makes the thing"),
    ("for what is to", "name the purpose"),
    ("if it is none", "name the value: `None` if …"),
    ("is none of", "write: is not"),
    ("is told", "say what the message is about"),
    ("it is none", "name the value: `None` if …"),
    ("nobody", "name the actor: the caller, the server, no process"),
    ("none is", "name the thing that is absent"),
    ("somebody", "name the actor: the operator, another process, an attacker"),
    ("that are none", "write: that are not …"),
    ("that is none", "write: that is not a …"),
    ("was told", "say what the message was about"),
    ("what for", "write: why, or name the purpose"),
    ("what is to be", "write what the reader has to do"),
    ("whoever", "name the actor: the caller, the implementer, the operator"),
    ("whomever", "name the actor"),
];

/// This file contains the phrases.
const HERE: &str = "xtask/src/tidy/phrases.rs";

pub(super) fn check(workspace: &Workspace) -> Vec<String> {
    let texts = workspace.files.iter().filter(|file| (file.is("rs") || file.is("md")) && file.path != HERE);
    texts.flat_map(phrases).collect()
}

/// How many words a name must have, at least, to be read as a sentence: names of tests are sentences.
const SENTENCE: usize = 4;

/// A word, its line, and whether only white space, or `_` in the name of a test, separates it from the previous word.
#[derive(Debug)]
struct Word {
    text: String,
    line: usize,
    joined: bool,
}

fn phrases(file: &File) -> Vec<String> {
    let words = words(&file.text, file.is("md"));
    let mut found = Vec::new();
    for (at, first) in words.iter().enumerate() {
        for (phrase, better) in PHRASES {
            let mut rest = words.iter().skip(at);
            let matches = phrase.split(' ').enumerate().all(|(number, part)| {
                rest.next().is_some_and(|word| word.text == part && (number == 0 || word.joined))
            });
            // "They cannot be told apart" is plain.
            let plain = phrase.ends_with("told") && rest.next().is_some_and(|word| word.text == "apart");
            if matches && !plain {
                found.push(format!("{}:{}: \"{phrase}\": {better}", file.path, first.line));
            }
        }
    }
    found
}

/// Splits a text into words. Code between back-ticks, code blocks and quotations are left out.
fn words(text: &str, markdown: bool) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    let mut fenced = false;
    let mut joined = false;
    for (number, line) in text.lines().enumerate() {
        let mut line = line.trim();
        if !markdown {
            // A sentence continues in the next line of a comment.
            line = line.trim_start_matches('/').trim_start_matches('!').trim_start();
        }
        if line.starts_with("```") {
            fenced = !fenced;
        }
        if fenced || line.starts_with("```") || (markdown && line.starts_with('>')) {
            joined = false;
            continue;
        }
        let spoken = without_code(line);
        let spoken = if markdown { spoken } else { with_sentences(&spoken) };
        let mut rest = spoken.as_str();
        while !rest.is_empty() {
            let end = rest.find(|one: char| !one.is_alphabetic()).unwrap_or(rest.len());
            let (word, behind) = rest.split_at(end);
            if !word.is_empty() {
                words.push(Word { text: word.to_lowercase(), line: number + 1, joined });
                joined = true;
            }
            let end = behind.find(char::is_alphabetic).unwrap_or(behind.len());
            let (between, behind) = behind.split_at(end);
            joined &= between.chars().all(|one| one.is_whitespace() || one == '\\');
            rest = behind;
        }
    }
    words
}

/// Writes each name that is as long as a sentence with spaces in place of `_`.
fn with_sentences(line: &str) -> String {
    let in_name = |one: char| one.is_alphanumeric() || one == '_';
    let mut names = Vec::new();
    for name in line.split_inclusive(|one| !in_name(one)) {
        let is_sentence = name.split('_').filter(|word| !word.is_empty()).count() >= SENTENCE;
        names.push(if is_sentence { name.replace('_', " ") } else { name.to_owned() });
    }
    names.concat()
}

/// Replaces each span between two back-ticks by one back-tick.
fn without_code(line: &str) -> String {
    let parts: Vec<&str> = line.split('`').collect();
    // The last back-tick opens nothing if it has no partner.
    let whole = parts.len() % 2 == 1;
    let last = parts.len() - 1;
    let kept = parts.iter().enumerate().filter(|(at, _)| at % 2 == 0 || (!whole && *at == last));
    kept.map(|(_, part)| *part).collect::<Vec<_>>().join("`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        phrases(&File::new(path, text)).len()
    }

    #[test]
    fn phrases_are_found_whatever_their_case_and_over_line_ends() {
        assert_eq!(found("a.rs", "/// Whoever reads this.\n"), 1);
        assert_eq!(found("a.rs", "    // one that\n    // is none\n"), 1);
        assert_eq!(found("a.rs", "    \"the caller is \\\n     told\"\n"), 1);
        assert_eq!(found("a.md", "The rest is\ntold later.\n"), 1);
    }

    #[test]
    fn parts_of_words_and_of_sentences_are_no_phrases() {
        assert_eq!(found("a.rs", "/// The two cannot be told apart.\n"), 0);
        assert_eq!(found("a.rs", "/// whoevers. None. Is it?\nfn is_told() {}\n"), 0);
        assert_eq!(found("a.rs", "/// If there is none, is it lost?\n"), 0);
    }

    #[test]
    fn names_of_tests_are_sentences() {
        assert_eq!(found("a.rs", "    async fn the_second_caller_is_told_so() {\n"), 1);
        assert_eq!(found("a.rs", "    async fn the_two_cannot_be_told_apart() {\n"), 0);
    }

    #[test]
    fn what_others_say_is_exempt() {
        assert_eq!(found("a.rs", "/// The server says `nobody`, and `x`.\n"), 0);
        assert_eq!(found("a.rs", "/// A lone ` and nobody.\n"), 1);
        assert_eq!(found("a.md", "> nobody\n\n```text\nwhoever\n```\n"), 0);
    }
}
