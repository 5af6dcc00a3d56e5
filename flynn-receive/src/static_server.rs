//! A file server for static sites: the `web` process of apps that the `static` buildpack builds.

mod content_type;
mod range;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::UNIX_EPOCH,
};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncSeekExt, SeekFrom},
};
use tokio_util::io::ReaderStream;

use crate::{Error, Result};

use content_type::content_type;
use range::{Range, requested_range};

/// Serves the files below one directory.
///
/// A directory is answered with its `index.html`; a name without a file with `404.html` of the root, if there is one.
/// Names that begin with `.` are not served (but `/.well-known/` is), and links that lead out of the directory neither.
#[derive(Debug, Clone)]
pub struct StaticServer {
    root: Arc<PathBuf>,
}

impl StaticServer {
    /// Serves the directory `root`.
    ///
    /// # Errors
    ///
    /// [`Error::Storage`] when it is not a directory.
    pub async fn new(root: impl AsRef<Path>) -> Result<Self> {
        let root = root.as_ref();
        let failed = || Error::storage(format!("serve {}", root.display()));
        let real = fs::canonicalize(root).await.map_err(failed())?;
        if !fs::metadata(&real).await.map_err(failed())?.is_dir() {
            return Err(failed()(io::ErrorKind::NotADirectory.into()));
        }
        Ok(Self {
            root: Arc::new(real),
        })
    }

    /// The routes, for [`flynn_discovery::http::serve`].
    pub fn router(&self) -> Router {
        Router::new().fallback(answer).with_state(self.clone())
    }

    async fn find(&self, path: &str) -> Found {
        let Some(relative) = decode(path) else {
            return Found::Nothing;
        };
        // `canonicalize` follows links, so what is below the root afterwards is below it in truth.
        let Ok(mut real) = fs::canonicalize(self.root.join(relative)).await else {
            return Found::Nothing;
        };
        if !real.starts_with(&*self.root) {
            return Found::Nothing;
        }
        if fs::metadata(&real).await.is_ok_and(|m| m.is_dir()) {
            if !path.ends_with('/') {
                return match fs::try_exists(real.join("index.html")).await {
                    Ok(true) => Found::Directory,
                    _ => Found::Nothing,
                };
            }
            match fs::canonicalize(real.join("index.html")).await {
                Ok(index) if index.starts_with(&*self.root) => real = index,
                _ => return Found::Nothing,
            }
        } else if path.ends_with('/') {
            return Found::Nothing;
        }
        Found::File(real)
    }
}

enum Found {
    File(PathBuf),
    /// A directory asked for without the `/` that its pages' relative links need.
    Directory,
    Nothing,
}

async fn answer(State(server): State<StaticServer>, request: Request) -> Response {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let allowed = [(header::ALLOW, HeaderValue::from_static("GET, HEAD"))];
        return (StatusCode::METHOD_NOT_ALLOWED, allowed).into_response();
    }
    let path = request.uri().path();
    let served = match server.find(path).await {
        Found::File(file) => send(&file, request.method(), request.headers()).await,
        Found::Directory => {
            let query = request.uri().query().map(|q| format!("?{q}"));
            // `//host/` would be read as another host.
            let path = path.trim_start_matches('/');
            let to = format!("/{path}/{}", query.unwrap_or_default());
            match HeaderValue::try_from(to) {
                Ok(to) => {
                    return (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, to)])
                        .into_response();
                }
                Err(_) => return StatusCode::BAD_REQUEST.into_response(),
            }
        }
        Found::Nothing => return not_found(&server, request.method()).await,
    };
    match served {
        Ok(response) => response,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            not_found(&server, request.method()).await
        }
        Err(error) => {
            tracing::warn!(path, %error, "could not read a file");
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                "this file cannot be read\n",
            )
                .into_response()
        }
    }
}

async fn not_found(server: &StaticServer, method: &Method) -> Response {
    let page = server.root.join("404.html");
    match send(&page, method, &HeaderMap::new()).await {
        Ok(mut response) => {
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
        Err(_) => (StatusCode::NOT_FOUND, "Not Found\n").into_response(),
    }
}

async fn send(path: &Path, method: &Method, asked: &HeaderMap) -> io::Result<Response> {
    let mut file = File::open(path).await?;
    let metadata = file.metadata().await?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let size = metadata.len();
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .map_or(0, |since| since.as_nanos());
    // A slug's files all have one time: the size and what the file system counts tell versions of one path apart.
    let etag = format!("\"{modified:x}-{size:x}-{:x}\"", fingerprint(&metadata));

    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, content_type(path));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::try_from(&etag) {
        headers.insert(header::ETAG, etag);
    }
    if has_tag(asked, &etag) {
        return Ok((StatusCode::NOT_MODIFIED, headers).into_response());
    }
    let (status, from, length) = match requested_range(asked, &etag, size) {
        Range::Whole => (StatusCode::OK, 0, size),
        Range::Part { first, last } => {
            let range = format!("bytes {first}-{last}/{size}");
            if let Ok(range) = HeaderValue::try_from(range) {
                headers.insert(header::CONTENT_RANGE, range);
            }
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
        Range::Impossible => {
            if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
                headers.insert(header::CONTENT_RANGE, range);
            }
            return Ok((StatusCode::RANGE_NOT_SATISFIABLE, headers).into_response());
        }
    };
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        file.seek(SeekFrom::Start(from)).await?;
        Body::from_stream(ReaderStream::with_capacity(file.take(length), 64 << 10).boxed())
    };
    Ok((status, headers, body).into_response())
}

fn fingerprint(metadata: &std::fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    metadata.ino() ^ metadata.ctime_nsec().unsigned_abs()
}

fn has_tag(asked: &HeaderMap, etag: &str) -> bool {
    asked
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|tags| {
            tags.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == etag || tag == "*")
        })
}

/// The path below the root that a request names; `None` for one that is not served.
fn decode(path: &str) -> Option<PathBuf> {
    let mut relative = PathBuf::new();
    for (index, segment) in path.split('/').filter(|s| !s.is_empty()).enumerate() {
        let name = percent_decode(segment)?;
        let is_known = index == 0 && name == ".well-known";
        if (name.starts_with('.') && !is_known) || name.contains(['/', '\0', '\\']) {
            return None;
        }
        relative.push(name);
    }
    Some(relative)
}

fn percent_decode(segment: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = [bytes.next()?, bytes.next()?];
            let mut value = [0];
            hex::decode_to_slice(digits, &mut value).ok()?;
            decoded.push(value[0]);
        } else {
            decoded.push(byte);
        }
    }
    String::from_utf8(decoded).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_path_leads_out_or_to_hidden_files() {
        for bad in [
            "/..",
            "/../etc/passwd",
            "/a/../../b",
            "/%2e%2e/x",
            "/a/%2e%2e%2fb",
            "/.git/config",
            "/a/.env",
            "/%00",
            "/a%2fb",
            "/%zz",
            "/%e4",
            "/a\\b",
            "/x/.well-known/y",
        ] {
            assert_eq!(decode(bad), None, "{bad} is served");
        }
        assert_eq!(decode("/"), Some(PathBuf::new()));
        assert_eq!(decode("//a//b.txt"), Some(PathBuf::from("a/b.txt")));
        assert_eq!(decode("/a%20b"), Some(PathBuf::from("a b")));
        assert_eq!(
            decode("/.well-known/x"),
            Some(PathBuf::from(".well-known/x"))
        );
    }
}
