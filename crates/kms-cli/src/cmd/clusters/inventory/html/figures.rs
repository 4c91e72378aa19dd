//! The figures in SVG.
//!
//! Each is an image with a name and a text for those who do not see it; the tables of the page have every number.

use std::collections::BTreeMap;

use kms_rook::inventory::State;
use maud::{Markup, html};

use super::{class, numbers::Bar, sign};

/// The width of a figure in its own units; a unit is about a pixel on a telephone.
const WIDTH: usize = 360;
/// The height of a line with its bar.
const LINE: usize = 22;
/// The width of the labels beside bars, and of the number after a bar.
const LABEL: usize = 114;
const NUMBER: usize = 40;
/// The height of the bars of a figure whose bars stand.
const HEIGHT: usize = 100;
/// The longest label of a node that fits beside its bar.
const NODE: usize = 15;

/// The ages of keys: one lying bar for each range.
pub(super) fn ages(bars: &[Bar]) -> Markup {
    let most = most(bars);
    let said: Vec<_> = bars.iter().map(|bar| format!("{}: {}", bar.label, bar.count)).collect();
    figure(
        "age",
        "Age of the stored KEKs",
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

/// The last rotation of each OSD over time: standing bars.
pub(super) fn rotations(bars: &[Bar]) -> Markup {
    let (Some(first), most) = (bars.first(), most(bars)) else {
        return figure(
            "rotations",
            "Last rotation of each OSD",
            "No OSD records a rotation.",
            LINE,
            &html! {
                text x="0" y="15" { "No OSD records a rotation." }
            },
        );
    };
    let step = WIDTH / bars.len();
    let said: Vec<_> = bars
        .iter()
        .filter(|bar| bar.count > 0)
        .map(|bar| format!("from {}: {}", bar.label, bar.count))
        .collect();
    figure(
        "rotations",
        "Last rotation of each OSD",
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

/// The states of the OSDs of each node: one bar for each node, with a part for each state.
pub(super) fn nodes(nodes: &BTreeMap<&str, BTreeMap<State, usize>>) -> Markup {
    let of_node = |states: &BTreeMap<State, usize>| states.values().sum::<usize>();
    let most = nodes.values().map(of_node).max().unwrap_or_default();
    let words = |states: &BTreeMap<State, usize>| {
        let words: Vec<_> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        words.join(", ")
    };
    let said: Vec<_> = nodes.iter().map(|(node, states)| format!("{node}: {}", words(states))).collect();
    let domain = domain(nodes.keys().copied());
    figure(
        "nodes",
        "OSDs of each node by state",
        &said.join("; "),
        nodes.len().max(1) * LINE,
        &html! {
            @for (y, (node, states)) in (0..).step_by(LINE).zip(nodes) {
                text x="0" y=(y + 15) { (shortened(node.strip_suffix(domain).unwrap_or(node))) title { (node) } }
                @for (state, x, width) in parts(states, most) {
                    rect.(class(state)) x=(x) y=(y + 3) width=(width) height=(LINE - 6) {}
                    @if width >= 10 { text.inside x=(x + width / 2) y=(y + 15) { (sign(state)) } }
                }
                text x=(WIDTH - NUMBER + 6) y=(y + 15) { (of_node(states)) }
            }
            @if nodes.is_empty() { text x="0" y="15" { "No OSD is known." } }
        },
    )
}

/// The parts of the bar of one node: the state, where it begins and its width.
fn parts(states: &BTreeMap<State, usize>, most: usize) -> Vec<(State, usize, usize)> {
    let mut before = 0;
    let place = |count| LABEL + share(count, most, WIDTH - LABEL - NUMBER);
    let part = |(state, count): (&State, &usize)| {
        let begin = place(before);
        before += count;
        (*state, begin, place(before) - begin)
    };
    states.iter().map(part).collect()
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
    if length <= NODE {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(length - NODE + 1)).collect()
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
    fn what_is_not_nothing_is_seen() {
        assert_eq!(
            [share(0, 9, 100), share(1, 9_999, 100), share(9, 9, 100), share(0, 0, 100)],
            [0, 1, 100, 0]
        );
    }
}
