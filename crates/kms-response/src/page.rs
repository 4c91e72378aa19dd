//! Recognises a web page that a proxy, a firewall or a login portal sends in place of the server's response.

use http::StatusCode;
use kms_core::{Error, ErrorKind, Retry};

/// The maximum number of characters of a title in an error.
const MAX_TITLE: usize = 80;
/// The maximum number of characters of a word of the title. A longer word may be something that the request held.
const MAX_WORD: usize = 20;
/// The number of bytes at the beginning of a page that may hold its title.
const HEAD: usize = 4096;

/// A web page in place of a server's response. `Debug` does not show it.
pub struct WebPage<'a>(&'a [u8]);

impl<'a> WebPage<'a> {
    /// Looks at a body. `None` if it is not a web page: a KMS and an API server send JSON or plain text.
    pub fn of(body: &'a [u8]) -> Option<Self> {
        let start = body.trim_ascii_start();
        let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
        let begins = |tag: &&str| {
            start.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag.as_bytes()))
        };
        ["<!doctype html", "<html", "<head", "<body", "<title"].iter().any(begins).then_some(Self(body))
    }

    /// The error for a page that came with this status: `RateLimited`, `Unavailable` or `Protocol`.
    ///
    /// `names_page`: whether the error may quote the title of the page. It may not if the request held a key.
    pub fn error(&self, status: StatusCode, names_page: bool) -> Error {
        let (kind, retry) = match status {
            StatusCode::TOO_MANY_REQUESTS => (ErrorKind::RateLimited, Retry::Always),
            StatusCode::NOT_IMPLEMENTED => (ErrorKind::Protocol, Retry::Never),
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                (ErrorKind::Unavailable, Retry::IfIdempotent)
            }
            _ => (ErrorKind::Protocol, Retry::Never),
        };
        let error = Error::new(
            kind,
            "a web page came in place of the server's response: a proxy, a firewall or a login portal has answered, or \
             the address is that of another server; check the address and the proxy settings",
        );
        let error = match self.title().filter(|_| names_page) {
            Some(title) => error.context("title of the page", title),
            None => error,
        };
        error.retry(retry)
    }

    /// The title in one line. `None` if the page has none.
    fn title(&self) -> Option<String> {
        let head = String::from_utf8_lossy(self.0.get(..HEAD).unwrap_or(self.0));
        let lower = head.to_ascii_lowercase();
        let begin = lower.find("<title")?;
        let begin = begin + lower.get(begin..)?.find('>')? + 1;
        let end = begin + lower.get(begin..)?.find("</title")?;
        let words = head.get(begin..end)?.split_whitespace();
        let words = words.map(|word| if word.chars().count() > MAX_WORD { "…" } else { word });
        let line = words.collect::<Vec<_>>().join(" ");
        let line: String = line.chars().filter(|c| !c.is_control()).take(MAX_TITLE).collect();
        (!line.is_empty()).then_some(line)
    }
}

impl std::fmt::Debug for WebPage<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(body) = self;
        write!(f, "WebPage({} bytes)", body.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(status: u16, body: &str, names_page: bool) -> Option<Error> {
        let status = StatusCode::from_u16(status).unwrap();
        WebPage::of(body.as_bytes()).map(|page| page.error(status, names_page))
    }

    #[test]
    fn a_page_is_called_one_and_its_title_is_shown() {
        use ErrorKind::*;
        let blocked =
            "\n<!DOCTYPE html>\n<HTML lang=\"en\"><head><Title class=x>Access\n Denied | Zscaler</TITLE>";
        for (status, kind, retry) in [
            (200, Protocol, Retry::Never),
            (401, Protocol, Retry::Never),
            (403, Protocol, Retry::Never),
            (404, Protocol, Retry::Never),
            (408, Unavailable, Retry::IfIdempotent),
            (429, RateLimited, Retry::Always),
            (501, Protocol, Retry::Never),
            (502, Unavailable, Retry::IfIdempotent),
            (503, Unavailable, Retry::IfIdempotent),
        ] {
            let shown = error(status, blocked, true).unwrap();
            assert_eq!((shown.kind(), shown.retryable()), (kind, retry), "{status}: {shown}");
            let text = shown.to_string();
            assert!(text.contains("web page") && text.contains("Access Denied | Zscaler"), "{text}");
            let hidden = error(status, blocked, false).unwrap();
            assert!(!hidden.to_string().contains("Zscaler"), "{hidden}");
        }
    }

    #[test]
    fn what_is_no_page_is_left_alone_and_long_words_are_not_quoted() {
        for body in ["", "{}", "null", "404 page not found", "<?xml version=\"1.0\"?><e/>", "<"] {
            assert!(error(403, body, true).is_none(), "{body}");
        }
        let long = "<html><title>for canary-canary-canary-canary</title>";
        assert!(!error(403, long, true).unwrap().to_string().contains("canary"));
        for odd in
            ["<html>", "<html><title>", "<html><title></title>", "<title>\u{e9}</title", "\u{feff}<html>"]
        {
            assert!(error(403, odd, true).is_some(), "{odd}");
        }
    }
}
