//! Errors about JSON in responses.

use kms_core::{Error, ErrorKind};

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
