//! Rust code as a flat list of tokens, without comments and tests.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, LexError, TokenStream, TokenTree};

/// The kind of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A keyword, a name or a lifetime's name.
    Word,
    /// A string, a character or a number.
    Literal,
    /// One character of punctuation, or a bracket.
    Mark,
}

/// One token and the lines on which it begins and ends, counted from 1.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) last_line: usize,
}

impl Token {
    pub(super) fn is(&self, text: &str) -> bool {
        self.kind != Kind::Literal && self.text == text
    }
}

/// Lexes `text`. Brackets are separate tokens. Comments, documentation and items under `#[cfg(test)]` are left out.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, LexError> {
    let mut flat = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    flatten(text.parse()?, &lines, &mut flat);
    Ok(flat)
}

/// The numbers of the lines that hold a token.
pub(super) fn code_lines(tokens: &[Token]) -> BTreeSet<usize> {
    tokens.iter().flat_map(|token| token.line..=token.last_line).collect()
}

fn flatten(stream: TokenStream, lines: &[&str], flat: &mut Vec<Token>) {
    let mut trees = stream.into_iter().peekable();
    while let Some(tree) = trees.next() {
        let TokenTree::Punct(mark) = &tree else {
            push(tree, lines, flat);
            continue;
        };
        if mark.as_char() != '#' {
            push(tree, lines, flat);
            continue;
        }
        let inner = trees.next_if(|next| matches!(next, TokenTree::Punct(mark) if mark.as_char() == '!'));
        let attribute = trees.next_if(|next| is_group(next, Delimiter::Bracket));
        // The lexer replaces a documentation comment by an attribute at the same place.
        let place = mark.span().start();
        let line = lines.get(place.line.saturating_sub(1)).copied().unwrap_or_default();
        if line.chars().nth(place.column) != Some('#') {
            continue;
        }
        if attribute.as_ref().is_some_and(is_cfg_test) {
            skip_item(&mut trees);
            continue;
        }
        push(tree, lines, flat);
        for tree in inner.into_iter().chain(attribute) {
            push(tree, lines, flat);
        }
    }
}

fn is_group(tree: &TokenTree, delimiter: Delimiter) -> bool {
    matches!(tree, TokenTree::Group(group) if group.delimiter() == delimiter)
}

/// Whether `tree` is `[cfg(test)]` or `[cfg(all(test, …))]`.
fn is_cfg_test(tree: &TokenTree) -> bool {
    let text: String = tree.to_string().split_whitespace().collect();
    text == "[cfg(test)]" || text.starts_with("[cfg(all(test,")
}

/// Skips the target of an attribute: an item, a field, an arm or a statement.
fn skip_item(trees: &mut impl Iterator<Item = TokenTree>) {
    let mut angles = 0_i32;
    let mut before = ' ';
    for tree in trees {
        match &tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            TokenTree::Punct(mark) => {
                match mark.as_char() {
                    ';' => return,
                    ',' if angles == 0 => return,
                    '<' => angles += 1,
                    '>' if before != '-' && before != '=' => angles -= 1,
                    _ => (),
                }
                before = mark.as_char();
            }
            _ => before = ' ',
        }
    }
}

fn push(tree: TokenTree, lines: &[&str], flat: &mut Vec<Token>) {
    let (line, last_line) = (tree.span().start().line, tree.span().end().line);
    let (kind, text) = match &tree {
        TokenTree::Ident(word) => (Kind::Word, word.to_string()),
        TokenTree::Literal(literal) => (Kind::Literal, literal.to_string()),
        TokenTree::Punct(mark) => (Kind::Mark, mark.as_char().to_string()),
        TokenTree::Group(group) => {
            let (open, close) = match group.delimiter() {
                Delimiter::Brace => ("{", "}"),
                Delimiter::Bracket => ("[", "]"),
                Delimiter::Parenthesis => ("(", ")"),
                Delimiter::None => return flatten(group.stream(), lines, flat),
            };
            let bracket =
                |text: &str, line| Token { kind: Kind::Mark, text: text.to_owned(), line, last_line: line };
            flat.push(bracket(open, group.span_open().start().line));
            flatten(group.stream(), lines, flat);
            return flat.push(bracket(close, group.span_close().start().line));
        }
    };
    flat.push(Token { kind, text, line, last_line });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(text: &str) -> usize {
        code_lines(&tokens(text).unwrap()).len()
    }

    #[test]
    fn comments_documentation_and_blank_lines_are_no_code() {
        assert_eq!(
            count("//! doc\n\n/// doc\nfn a() {\n    // why\n    /* and\n    why */\n    b()\n}\n"),
            3
        );
        assert_eq!(count("#[derive(Debug)]\n#[doc = \"shown\"]\nstruct A;\n"), 3);
    }

    #[test]
    fn tests_are_no_code() {
        assert_eq!(count("fn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}\nfn c() {}\n"), 2);
        assert_eq!(
            count("#[cfg(test)]\nmod tests;\n#[cfg(test)]\nfn f<A, B>(a: A) -> B {\n}\nfn c() {}\n"),
            1
        );
        assert_eq!(
            count(
                "#[cfg(all(test, feature = \"x\"))]\nuse a::b;\nstruct C {\n    #[cfg(test)]\n    d: E,\n}\n"
            ),
            2
        );
        assert_eq!(count("#[cfg(feature = \"test\")]\nuse a::b;\n"), 2);
    }

    #[test]
    fn a_string_over_several_lines_counts_as_several() {
        assert_eq!(count("const A: &str = \"a\nb\nc\";\n"), 3);
    }
}
