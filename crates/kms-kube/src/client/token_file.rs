//! The service-account token, read from its file.
//!
//! The kubelet writes a new token to that file before the old one expires. The file is read for each request, so that a
//! replaced token is never sent; it is a file in memory, and reading it costs little. `kube` would keep the token for 50
//! seconds, and rejects a token that ends with a line break.

use std::{
    error::Error as StdError,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::{Either, Ready, ready};
use http::{HeaderValue, Request, header::AUTHORIZATION};
use kube::client::Body;
use tower::{BoxError, Layer, Service};
use zeroize::Zeroizing;

/// A file with a bearer token.
#[derive(Clone)]
pub(crate) struct TokenFile {
    path: Arc<Path>,
    /// The last token that was read. Some setups remove the file after the start; `kubectl` also keeps the last token
    /// then.
    last: Arc<Mutex<Option<Zeroizing<String>>>>,
}

/// The token file cannot be used.
#[derive(Debug)]
pub(crate) struct TokenFileError {
    path: PathBuf,
    /// `None` if the file was read but holds no token.
    source: Option<io::Error>,
}

impl fmt::Display for TokenFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, source } = self;
        match source {
            Some(_) => write!(f, "the token file {} cannot be read", path.display()),
            None => write!(f, "the token file {} holds no token", path.display()),
        }
    }
}

impl StdError for TokenFileError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref().map(|source| source as &(dyn StdError + 'static))
    }
}

impl TokenFile {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: Arc::from(path.into()), last: Arc::default() }
    }

    /// The value of the `Authorization` header with the current token.
    pub(crate) fn header(&self) -> Result<HeaderValue, TokenFileError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::read_to_string(&self.path) {
            Ok(token) => *last = Some(Zeroizing::new(token)),
            Err(source) if last.is_none() => {
                return Err(TokenFileError { path: self.path.to_path_buf(), source: Some(source) });
            }
            Err(_) => {}
        }
        let unusable = || TokenFileError { path: self.path.to_path_buf(), source: None };
        let token = last.as_deref().map(|token| token.trim()).filter(|token| !token.is_empty());
        let text = Zeroizing::new(["Bearer ", token.ok_or_else(unusable)?].concat().into_bytes());
        let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from_owner(text)) else {
            return Err(unusable());
        };
        value.set_sensitive(true);
        Ok(value)
    }
}

impl<S> Layer<S> for TokenFile {
    type Service = WithToken<S>;

    fn layer(&self, inner: S) -> Self::Service {
        WithToken { inner, file: self.clone() }
    }
}

/// A service that adds the token to each request.
#[derive(Clone)]
pub(crate) struct WithToken<S> {
    inner: S,
    file: TokenFile,
}

impl<S: Service<Request<Body>, Error = BoxError>> Service<Request<Body>> for WithToken<S> {
    type Response = S::Response;
    type Error = BoxError;
    type Future = Either<S::Future, Ready<Result<S::Response, BoxError>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.file.header() {
            Ok(value) => {
                request.headers_mut().insert(AUTHORIZATION, value);
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(ready(Err(error.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(file: &TokenFile) -> String {
        file.header().unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn a_new_token_is_presented_at_once_and_the_last_one_outlives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let file = TokenFile::new(&path);
        assert!(file.header().unwrap_err().to_string().contains("cannot be read"));
        fs::write(&path, "one").unwrap();
        assert_eq!(token(&file), "Bearer one");
        fs::write(&path, "two\n").unwrap();
        assert_eq!(token(&file), "Bearer two");
        fs::remove_file(&path).unwrap();
        assert_eq!(token(&file), "Bearer two");
        assert!(!format!("{:?}", file.header().unwrap()).contains("two"));
    }

    #[test]
    fn a_file_without_a_token_is_an_error_that_does_not_show_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        for text in [" \n", "cana\u{1}ry"] {
            fs::write(&path, text).unwrap();
            let error = TokenFile::new(&path).header().unwrap_err();
            assert!(error.to_string().contains("holds no token"), "{error}");
            assert!(!format!("{error:?}").contains("ry"), "{error:?}");
        }
    }
}
