//! `--hoops-files`: the files of one directory, such as the vendor's web viewer and its WebAssembly engine.
//!
//! Invariants: nothing outside the directory is served but what a symbolic link in it names; no list of files; nothing whose name
//! begins with a dot, as no page asks for it and much of it is not for the public.

use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use percent_encoding::percent_decode_str;
use tower::ServiceExt as _;
use tower_http::services::ServeDir;
use tracing::info;

use super::answer;

#[derive(Debug, Clone)]
pub(super) struct Files(ServeDir);

impl Files {
    pub(super) fn new(directory: &Path) -> Self {
        Self(ServeDir::new(directory))
    }

    /// The file of the request's path.
    pub(super) async fn serve(&self, request: Request) -> Response {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads || is_hidden(request.uri().path()) {
            return answer::not_found();
        }
        let Ok(response) = self.0.clone().oneshot(request).await;
        match response.status() {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => answer::not_found(),
            status if status.is_server_error() => {
                info!(%status, "a file could not be read");
                answer::failed(StatusCode::INTERNAL_SERVER_ERROR, "the file could not be read")
            }
            _ => response.map(Body::new),
        }
    }
}

/// Whether some part of the path begins with a dot, once it is decoded.
fn is_hidden(path: &str) -> bool {
    let decoded = percent_decode_str(path).decode_utf8_lossy();
    decoded.split(['/', '\\']).any(|part| part.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    async fn get(files: &Files, path: &str) -> (u16, Option<String>, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = files.serve(request).await;
        let media = response.headers().get("content-type").map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, media, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn files_have_the_types_that_browsers_want_and_nothing_else_is_served() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("public");
        std::fs::create_dir_all(root.join("sub")).unwrap();
        std::fs::create_dir_all(root.join(".git")).unwrap();
        for (name, text) in [
            ("index.html", "page"),
            ("engine.wasm", "wasm"),
            ("viewer.mjs", "module"),
            ("sub/a b.js", "script"),
            (".env", "secret"),
            (".git/config", "secret"),
            ("../outside", "secret"),
        ] {
            std::fs::write(root.join(name), text).unwrap();
        }
        let files = Files::new(&root);
        for (path, media, text) in [
            ("/", "text/html", "page"),
            ("/index.html", "text/html", "page"),
            ("/engine.wasm", "application/wasm", "wasm"),
            ("/viewer.mjs", "application/javascript", "module"),
            ("/sub/a%20b.js", "text/javascript", "script"),
        ] {
            let (status, found, body) = get(&files, path).await;
            assert_eq!((status, found.as_deref(), body.as_str()), (200, Some(media), text), "{path}");
        }
        for path in [
            "/sub",
            "/sub/",
            "/missing",
            "/../outside",
            "/%2e%2e/outside",
            "/sub/..%2f..%2foutside",
            "/.env",
            "/%2eenv",
            "/.git/config",
            "/sub/%2e%2e/%2e%2e/outside",
            "/..%5coutside",
            "//../outside",
            "/%00",
        ] {
            let (status, _, body) = get(&files, path).await;
            assert!(!body.contains("secret"), "{path}: {body}");
            assert!(status == 404 || (path == "/sub" && status == 307), "{path}: {status}");
        }
        let request = Request::post("/index.html").body(Body::empty()).unwrap();
        assert_eq!(files.serve(request).await.status(), 404);
    }
}
