//! Recognises a web page that a proxy, a firewall or a login portal sends in place of the server's response.

use http::StatusCode;
use kms_core::{Error, ErrorKind, Retry};

use crate::send::HttpResponse;

/// The maximum number of characters of a title in an error.
const MAX_TITLE: usize = 80;
/// The maximum number of characters of a word of the title. A longer word may be something that the request held.
const MAX_WORD: usize = 20;
/// The number of bytes at the beginning of a page that may hold its title.
const HEAD: usize = 4096;

impl HttpResponse {
    /// The error for a web page. `None` if the response is not one: a KMS sends JSON.
    ///
    /// `names_page`: whether the error may quote the title of the page. It may not if the request held a key.
    pub fn page_error(&self, names_page: bool) -> Option<Error> {
        if !is_page(&self.body) {
            return None;
        }
        let (kind, retry) = match self.status {
            StatusCode::TOO_MANY_REQUESTS => (ErrorKind::RateLimited, Retry::Always),
            StatusCode::NOT_IMPLEMENTED => (ErrorKind::Protocol, Retry::Never),
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                (ErrorKind::Unavailable, Retry::IfIdempotent)
            }
            _ => (ErrorKind::Protocol, Retry::Never),
        };
        let error = page(kind, if names_page { title(&self.body) } else { None });
        Some(
            error
                .retry(retry)
                .retry_after(self.retry_after())
                .context("status", self.status.as_u16().to_string()),
        )
    }
}

/// The error for a body that is a web page, whatever its status. `None` if it is not one.
#[cfg(feature = "json")]
pub(crate) fn of_body(body: &[u8]) -> Option<Error> {
    is_page(body).then(|| page(ErrorKind::Protocol, title(body)))
}

fn page(kind: ErrorKind, title: Option<String>) -> Error {
    let error = Error::new(
        kind,
        "a web page came in place of the server's response: a proxy, a firewall or a login portal has answered, or \
         the address is that of another server; check the address and the proxy settings",
    );
    match title {
        Some(title) => error.context("title of the page", title),
        None => error,
    }
}

fn is_page(body: &[u8]) -> bool {
    let start = body.trim_ascii_start();
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start);
    ["<!doctype html", "<html", "<head", "<body", "<title"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(tag.as_bytes())))
}

/// The title of a page in one line. `None` if it has none.
fn title(body: &[u8]) -> Option<String> {
    let head = String::from_utf8_lossy(body.get(..HEAD).unwrap_or(body));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: u16, body: &str) -> HttpResponse {
        HttpResponse {
            status: StatusCode::from_u16(status).unwrap(),
            headers: http::HeaderMap::new(),
            body: body.as_bytes().to_vec().into(),
        }
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
            (429, RateLimited, Retry::Always),
            (501, Protocol, Retry::Never),
            (502, Unavailable, Retry::IfIdempotent),
            (503, Unavailable, Retry::IfIdempotent),
        ] {
            let error = response(status, blocked).page_error(true).unwrap();
            assert_eq!((error.kind(), error.retryable()), (kind, retry), "{status}: {error}");
            let text = error.to_string();
            assert!(text.contains("web page") && text.contains("Access Denied | Zscaler"), "{text}");
            let error = response(status, blocked).page_error(false).unwrap();
            assert!(!error.to_string().contains("Zscaler"), "{error}");
        }
    }

    #[test]
    fn what_is_no_page_is_left_alone_and_long_words_are_not_quoted() {
        for body in ["", "{}", "null", "404 page not found", "<?xml version=\"1.0\"?><e/>", "<"] {
            assert!(response(403, body).page_error(true).is_none(), "{body}");
        }
        let long = "<html><title>for canary-canary-canary-canary</title>";
        assert!(!response(403, long).page_error(true).unwrap().to_string().contains("canary"));
        for odd in ["<html>", "<html><title>", "<html><title></title>", "<title>\u{e9}</title"] {
            assert!(response(403, odd).page_error(true).is_some(), "{odd}");
        }
    }
}
