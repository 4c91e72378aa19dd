//! The requests that a server received, from its audit files.
//!
//! The server writes an entry before it answers, so the request of every response is in the log.
//! The log lacks `sys/health` and similar paths, which OpenBao does not audit, and requests above a rate limit.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// A request as the server received it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Request {
    /// `create`, `read`, `update`, `delete` or `list`.
    pub operation: String,
    /// Its path without `/v1/`.
    pub path: String,
    /// The path of the namespace, empty for the root.
    pub vault_namespace: String,
    /// The client: `userpass-admin`, `token`, `approle`, `kubernetes-…`. Empty if the token was invalid.
    pub display_name: String,
    /// Whether it was refused before it reached the mount.
    pub refused: bool,
    /// The header `traceparent`, if the server is configured to log it.
    pub traceparent: Option<String>,
}

/// Counts the requests since a point in time, without those of the harness' [`Admin`](super::Admin).
#[derive(Debug)]
pub struct Requests {
    files: Vec<(PathBuf, u64)>,
}

impl Requests {
    pub(super) fn from_now_on(files: Vec<PathBuf>) -> Result<Self> {
        let mut requests = Self { files: files.into_iter().map(|path| (path, 0)).collect() };
        requests.forget()?;
        Ok(requests)
    }

    /// Restarts the count.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn forget(&mut self) -> Result<()> {
        for (path, from) in &mut self.files {
            // A node opens its file at the first request.
            let file = File::options().create(true).append(true).open(&*path);
            *from = file
                .and_then(|file| file.metadata())
                .with_context(|| format!("open {}", path.display()))?
                .len();
        }
        Ok(())
    }

    /// The requests, in order for each server.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn all(&self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for (path, from) in &self.files {
            let mut text = String::new();
            let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
            file.seek(SeekFrom::Start(*from))?;
            file.read_to_string(&mut text).with_context(|| format!("read {}", path.display()))?;
            // An entry in the course of writing has no end of line yet.
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let entry =
                    serde_json::from_str(line).with_context(|| format!("parse {}", path.display()))?;
                requests.extend(request(&entry));
            }
        }
        Ok(requests)
    }

    /// The number of requests of each operation and path.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn table(&self) -> Result<BTreeMap<(String, String), usize>> {
        let mut table = BTreeMap::new();
        for Request { operation, path, .. } in self.all()? {
            *table.entry((operation, path)).or_default() += 1;
        }
        Ok(table)
    }

    /// The number of requests whose path begins with `prefix`.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn count(&self, prefix: &str) -> Result<usize> {
        Ok(self.all()?.iter().filter(|request| request.path.starts_with(prefix)).count())
    }

    /// The number of logins, of every method.
    ///
    /// # Errors
    ///
    /// If an audit file cannot be read.
    pub fn logins(&self) -> Result<usize> {
        let login = |request: &&Request| {
            request.path.starts_with("auth/") && request.path.split('/').any(|part| part == "login")
        };
        Ok(self.all()?.iter().filter(login).count())
    }
}

/// The request of an audit entry, if it came over the network and not from the harness.
fn request(entry: &Value) -> Option<Request> {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let display_name = text("/auth/display_name");
    // Each request has a second entry for its response; requests of the server to itself have no address.
    let counts = text("/type") == "request"
        && entry.pointer("/request/remote_address").is_some()
        && !matches!(display_name.as_str(), "root" | "userpass-admin");
    counts.then(|| Request {
        operation: text("/request/operation"),
        path: text("/request/path"),
        vault_namespace: text("/request/namespace/path"),
        display_name,
        refused: entry.get("error").is_some(),
        traceparent: entry
            .pointer("/request/headers/traceparent/0")
            .and_then(Value::as_str)
            .map(str::to_owned),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use serde_json::json;

    use super::*;

    fn entry(kind: &str, who: &str, operation: &str, path: &str) -> Value {
        json!({"type": kind, "auth": {"display_name": who},
               "request": {"operation": operation, "path": path, "namespace": {"id": "root"}, "remote_address": "127.0.0.1"}})
    }

    #[test]
    fn requests_of_others_are_counted_from_the_mark_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut file = File::create(&path).unwrap();
        writeln!(file, "{}", entry("request", "token", "read", "rook/before")).unwrap();
        let requests = Requests::from_now_on(vec![path]).unwrap();
        for (kind, who, operation, path) in [
            ("request", "token", "read", "rook/a"),
            ("response", "token", "read", "rook/a"),
            ("request", "token", "read", "rook/a"),
            ("request", "root", "read", "rook/a"),
            ("request", "", "update", "auth/approle/login"),
        ] {
            writeln!(file, "{}", entry(kind, who, operation, path)).unwrap();
        }
        write!(file, "{{\"type\":").unwrap();
        assert_eq!(requests.count("rook/").unwrap(), 2);
        assert_eq!(requests.logins().unwrap(), 1);
        assert_eq!(requests.table().unwrap()[&("read".to_owned(), "rook/a".to_owned())], 2);
    }
}
