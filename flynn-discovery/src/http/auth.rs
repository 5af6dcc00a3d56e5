//! Who may call: a shared key, as Flynn's clients send it.

use std::{borrow::Cow, sync::Arc};

use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::Secret;

/// The keys a server accepts, and the paths that need none.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    keys: Vec<Secret>,
    open: Vec<Cow<'static, str>>,
}

impl Keys {
    /// Accepts any of `keys`. Without one, every request to a guarded path is refused.
    #[must_use]
    pub fn new(keys: Vec<Secret>) -> Self {
        Self {
            keys,
            open: Vec::new(),
        }
    }

    /// Needs no key for exactly this path.
    #[must_use]
    pub fn with_open_path(mut self, path: impl Into<Cow<'static, str>>) -> Self {
        self.open.push(path.into());
        self
    }

    /// Is `key` one of ours? Looks at all of them, so that time does not tell which one nearly fitted.
    #[must_use]
    pub fn contains(&self, key: &Secret) -> bool {
        self.keys
            .iter()
            .fold(false, |found, ours| found | ours.matches(key))
    }
}

/// Answers 401 with an empty body, as Flynn does, to every request that presents none of `keys`.
///
/// `OPTIONS` passes: browsers ask before they authenticate.
pub fn require_key(app: Router, keys: Keys) -> Router {
    app.layer(middleware::from_fn_with_state(Arc::new(keys), check))
}

async fn check(State(keys): State<Arc<Keys>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let allowed = request.method() == http::Method::OPTIONS
        || keys.open.iter().any(|open| open == path)
        || presented_key(request.headers()).is_some_and(|key| keys.contains(&key));
    if allowed {
        next.run(request).await
    } else {
        let challenge = HeaderValue::from_static("Basic realm=\"flynn\"");
        (
            StatusCode::UNAUTHORIZED,
            [(header::WWW_AUTHENTICATE, challenge)],
        )
            .into_response()
    }
}

/// The key a request presents: the password of basic authentication (whoever the user), a bearer token, or `Auth-Key`.
#[must_use]
pub fn presented_key(headers: &HeaderMap) -> Option<Secret> {
    if let Some(key) = headers.get("auth-key") {
        return key.to_str().ok().map(Secret::new);
    }
    let (scheme, value) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Some(Secret::new(value))
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(BASE64_STANDARD.decode(value.trim()).ok()?).ok()?;
        pair.split_once(':').map(|(_, key)| Secret::new(key))
    } else {
        None
    }
}

/// The header that presents `key`.
pub(crate) fn authorization(key: &Secret) -> HeaderValue {
    let pair = BASE64_STANDARD.encode(format!(":{}", key.expose()));
    let mut value = HeaderValue::try_from(format!("Basic {pair}"))
        .expect("base64 is always a valid header value");
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(
            header::HeaderName::from_static(name),
            HeaderValue::from_str(value).unwrap(),
        )])
    }

    #[test]
    fn a_key_is_found_in_every_form_clients_use() {
        let ours = Keys::new(vec![Secret::new("first"), Secret::new("s3cret")]);
        for request in [
            headers("authorization", "Basic OnMzY3JldA=="), // ":s3cret"
            headers("authorization", "basic dXNlcjpzM2NyZXQ="), // "user:s3cret"
            headers("authorization", "Bearer s3cret"),
            headers("auth-key", "s3cret"),
        ] {
            assert!(ours.contains(&presented_key(&request).unwrap()));
        }
        for request in [
            headers("authorization", "Basic !!!"),
            headers("authorization", "Digest s3cret"),
            headers("x-other", "s3cret"),
        ] {
            assert!(presented_key(&request).is_none());
        }
    }

    #[test]
    fn without_keys_nobody_is_let_in() {
        assert!(!Keys::new(vec![]).contains(&Secret::new("")));
    }
}
