//! The frame of a page.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("style.css");

/// The content security policy of a page: it loads nothing and runs nothing, even if a name in it were markup. Only its
/// own style sheet applies.
///
/// A server adds `frame-ancestors 'none'`, which has no effect inside a page.
pub fn policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'")
}

/// A whole page. `summary` follows the title.
pub fn page(title: &str, summary: &Markup, content: &Markup) -> String {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(policy());
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                header { h1 { (title) } (summary) }
                main { (content) }
            }
        }
    }
    .into_string()
}

/// A section with a table that scrolls in its own box, which the keyboard can reach. `id` is that of the heading.
pub fn wide(id: &str, heading: &str, head: &[&str], rows: &Markup) -> Markup {
    html! {
        section aria-labelledby=(id) {
            h2 id=(id) { (heading) }
            div.wide role="region" aria-labelledby=(id) tabindex="0" {
                table {
                    thead { tr { @for cell in head { th scope="col" { (cell) } } } }
                    tbody { (rows) }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_in_a_title_is_text_and_the_style_is_the_one_that_the_policy_allows() {
        let page = page("<script>", &html! {}, &html! {});
        assert!(page.contains("&lt;script&gt;") && !page.contains("<script>"));
        let (_, rest) = page.split_once("<style>").unwrap();
        let (style, _) = rest.split_once("</style>").unwrap();
        let hash = STANDARD.encode(Sha256::digest(style));
        assert!(page.contains(&format!("sha256-{hash}")));
    }
}
