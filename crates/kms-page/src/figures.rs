//! The figures in SVG.
//!
//! Each is an image with a name and a text for those who do not see it; a page has a table with the same numbers.

use maud::{Markup, html};

use crate::tone::Tone;

/// The width of a figure in its own units; a unit is about a pixel on a telephone.
const WIDTH: usize = 360;
/// The height of a line with its bar.
const LINE: usize = 22;
/// The width of the labels beside bars, and of the number after a bar.
const LABEL: usize = 114;
const NUMBER: usize = 40;
/// The height of the bars of a figure whose bars stand.
const HEIGHT: usize = 100;
/// The longest label of a stack that fits beside its bar.
const LONGEST: usize = 15;

/// A label and a number.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Bar {
    /// The label.
    pub label: String,
    /// The number.
    pub count: usize,
}

impl Bar {
    /// A bar.
    pub fn new(label: impl Into<String>, count: usize) -> Self {
        Self { label: label.into(), count }
    }
}

/// A bar with a part for each state.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Stack {
    /// The label, such as the name of a node.
    pub label: String,
    /// The parts, in the order in which they are drawn.
    pub parts: Vec<Part>,
}

impl Stack {
    /// A stack.
    pub fn new(label: impl Into<String>, parts: Vec<Part>) -> Self {
        Self { label: label.into(), parts }
    }

    fn count(&self) -> usize {
        self.parts.iter().map(|part| part.count).sum()
    }
}

/// The number of things in one state.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Part {
    /// What the state means.
    pub tone: Tone,
    /// Its word.
    pub word: String,
    /// The number.
    pub count: usize,
}

impl Part {
    /// A part.
    pub fn new(tone: Tone, word: impl Into<String>, count: usize) -> Self {
        Self { tone, word: word.into(), count }
    }
}

/// One lying bar for each label. `id` is that of the caption in the page.
pub fn bars(id: &str, caption: &str, bars: &[Bar]) -> Markup {
    let most = most(bars);
    let said: Vec<_> = bars.iter().map(|bar| format!("{}: {}", bar.label, bar.count)).collect();
    figure(
        id,
        caption,
        &said.join(", "),
        bars.len() * LINE,
        &html! {
            @for (y, bar) in (0..).step_by(LINE).zip(bars) {
                @let width = share(bar.count, most, WIDTH - LABEL - NUMBER);
                text x="0" y=(y + 15) { (bar.label) }
                rect.bar x=(LABEL) y=(y + 3) width=(width) height=(LINE - 6) {}
                text x=(LABEL + width + 6) y=(y + 15) { (bar.count) }
            }
        },
    )
}

/// Numbers over time: standing bars, of which the last ends now. Without bars the figure says `empty`.
pub fn columns(id: &str, caption: &str, empty: &str, bars: &[Bar]) -> Markup {
    let (Some(first), most) = (bars.first(), most(bars)) else {
        return figure(id, caption, empty, LINE, &html! { text x="0" y="15" { (empty) } });
    };
    let step = WIDTH / bars.len();
    let said: Vec<_> = bars
        .iter()
        .filter(|bar| bar.count > 0)
        .map(|bar| format!("from {}: {}", bar.label, bar.count))
        .collect();
    figure(
        id,
        caption,
        &said.join(", "),
        HEIGHT + 36,
        &html! {
            @for (x, bar) in (0..).step_by(step).zip(bars).filter(|(_, bar)| bar.count > 0) {
                @let height = share(bar.count, most, HEIGHT);
                rect.bar x=(x + 1) y=(16 + HEIGHT - height) width=(step - 2) height=(height) {
                    title { (bar.count) " from " (bar.label) }
                }
            }
            text x="0" y="11" { "highest bar: " (most) }
            line.axis x1="0" y1=(HEIGHT + 16) x2=(WIDTH) y2=(HEIGHT + 16) {}
            text x="0" y=(HEIGHT + 31) { (first.label) }
            text.end x=(WIDTH) y=(HEIGHT + 31) { "now" }
        },
    )
}

/// One lying bar for each stack, with a part for each state. Without stacks the figure says `empty`.
pub fn stacks(id: &str, caption: &str, empty: &str, stacks: &[Stack]) -> Markup {
    let most = stacks.iter().map(Stack::count).max().unwrap_or_default();
    let words = |stack: &Stack| {
        let words: Vec<_> = stack.parts.iter().map(|part| format!("{} {}", part.count, part.word)).collect();
        words.join(", ")
    };
    let said: Vec<_> = stacks.iter().map(|stack| format!("{}: {}", stack.label, words(stack))).collect();
    // A label with a space, such as "node unknown", is not the name of a host, and has no domain.
    let hosts = stacks.iter().map(|stack| stack.label.as_str()).filter(|label| !label.contains(' '));
    let domain = domain(hosts);
    figure(
        id,
        caption,
        if stacks.is_empty() { empty.to_owned() } else { said.join("; ") }.as_str(),
        stacks.len().max(1) * LINE,
        &html! {
            @for (y, stack) in (0..).step_by(LINE).zip(stacks) {
                @let label = stack.label.strip_suffix(domain).unwrap_or(&stack.label);
                text x="0" y=(y + 15) { (shortened(label)) title { (stack.label) } }
                @for (tone, x, width) in placed(&stack.parts, most) {
                    rect.(tone.class()) x=(x) y=(y + 3) width=(width) height=(LINE - 6) {}
                    @if width >= 10 { text.inside x=(x + width / 2) y=(y + 15) { (tone.sign()) } }
                }
                text x=(WIDTH - NUMBER + 6) y=(y + 15) { (stack.count()) }
            }
            @if stacks.is_empty() { text x="0" y="15" { (empty) } }
        },
    )
}

/// The parts of a bar: what each means, where it begins and its width.
fn placed(parts: &[Part], most: usize) -> Vec<(Tone, usize, usize)> {
    let mut before = 0;
    let place = |count| LABEL + share(count, most, WIDTH - LABEL - NUMBER);
    let part = |part: &Part| {
        let begin = place(before);
        before += part.count;
        (part.tone, begin, place(before) - begin)
    };
    parts.iter().map(part).collect()
}

/// A figure with its caption.
fn figure(id: &str, caption: &str, said: &str, height: usize, content: &Markup) -> Markup {
    html! {
        figure {
            figcaption id=(id) { (caption) }
            svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-labelledby=(id) aria-describedby=(format!("{id}-said")) {
                desc id=(format!("{id}-said")) { (said) }
                (content)
            }
        }
    }
}

fn most(bars: &[Bar]) -> usize {
    bars.iter().map(|bar| bar.count).max().unwrap_or_default()
}

/// `count` of `most` as a part of `length`. What is not nothing is seen.
fn share(count: usize, most: usize, length: usize) -> usize {
    if count == 0 { 0 } else { (length * count / most.max(1)).max(1) }
}

/// The domain that all names end in, with the point before it; empty if there is none.
fn domain<'a>(mut names: impl Iterator<Item = &'a str>) -> &'a str {
    let after_point = |name: &'a str| name.find('.').and_then(|at| name.get(at..)).unwrap_or_default();
    let mut domain = names.next().map(after_point).unwrap_or_default();
    for name in names {
        while !name.ends_with(domain) {
            // The empty text ends every name.
            domain = domain.get(1..).map(after_point).unwrap_or_default();
        }
    }
    domain
}

/// The end of a long name, which tells nodes of one pool apart.
fn shortened(name: &str) -> String {
    let length = name.chars().count();
    if length <= LONGEST {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length - LONGEST + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_nodes_differ_where_their_names_do() {
        for (names, expected) in [
            (vec!["a-0.rack-1.example.net", "a-1.rack-2.example.net"], ".example.net"),
            (vec!["a.example.net", "b.example.net"], ".example.net"),
            (vec!["a.example.net", "b"], ""),
            (vec!["a", "b"], ""),
            (vec![], ""),
        ] {
            assert_eq!(domain(names.iter().copied()), expected, "{names:?}");
        }
        assert_eq!(shortened("storage-0.rack-0"), "…orage-0.rack-0");
        assert_eq!(shortened("storage-0"), "storage-0");
    }

    #[test]
    fn a_label_that_is_no_host_leaves_those_of_hosts_apart() {
        let stack = |label: &str| Stack::new(label, vec![Part::new(Tone::Good, "ready", 1)]);
        let names = ["node unknown", "storage-0.rack-0.example.net", "storage-1.rack-0.example.net"];
        let drawn = stacks("a", "b", "c", &names.map(stack)).into_string();
        assert!(drawn.contains(">storage-0<") && drawn.contains(">storage-1<"), "{drawn}");
    }

    #[test]
    fn what_is_not_nothing_is_seen() {
        assert_eq!(
            [share(0, 9, 100), share(1, 9_999, 100), share(9, 9, 100), share(0, 0, 100)],
            [0, 1, 100, 0]
        );
    }
}
