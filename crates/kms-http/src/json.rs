//! JSON in responses, and errors about it.

use http::StatusCode;
use kms_core::{Error, ErrorKind, Result};
use kms_response::WebPage;
use serde::Deserialize;

/// Parses a body.
///
/// # Errors
///
/// `Protocol` for a malformed body, or for a web page in place of one; see [`unreadable`].
pub fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|cause| match WebPage::of(body) {
        Some(page) => page.error(StatusCode::OK, true),
        None => unreadable(&cause),
    })
}

/// Makes the error for a malformed body. It has only the position, since `serde_json` quotes the body in its errors.
pub fn unreadable(cause: &serde_json::Error) -> Error {
    let what = match cause.classify() {
        serde_json::error::Category::Eof => "it ends too early",
        serde_json::error::Category::Data => "it has another form than expected",
        _ => "it is not JSON",
    };
    Error::new(ErrorKind::Protocol, format!("the server's answer cannot be read: {what}"))
        .context("at", format!("line {} column {}", cause.line(), cause.column()))
}
