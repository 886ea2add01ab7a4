use std::sync::Arc;
use std::time::Duration;

use access::Scope;
use access::api_key::{ApiKey, NewKey};
use access::key_file;
use axum::body::Body;
use axum::http::{Method, Request};
use axum::response::Response;
use http_body_util::BodyExt;
use model::Timing;
use model::api::Problem;
use proptest::prelude::*;
use registry::Registry;
use tower::ServiceExt;

use super::authorization::OPEN;
use super::edge::Edge;
use super::error;
use super::origin::Reach;
use super::request_id::X_REQUEST_ID;
use super::route::{Route, observed};
use super::routes::{admin_router, router};
use crate::settings::{Config, Origins};
use crate::start::parts::Parts;

fn edge() -> Arc<Edge> {
    Parts::new(config(), Registry::embedded(Timing::FARM)).edge
}

fn config() -> Config {
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        admin_listen: ([127, 0, 0, 1], 0).into(),
        spawn_deadline: Duration::from_millis(50),
        placement: model::Placement::Spread,
        max_waiting: 10,
        origins: Origins::Any,
        hosts: access::Hosts::default(),
        trusted_proxies: crate::settings::TrustedProxies::default(),
        webhooks: None,
        shutdown_grace: Duration::ZERO,
        keep_ended: model::timing::KEEP_ENDED,
        live_ping_interval: Duration::from_secs(30),
        live_buffer: 1,
        max_connections: 1000,
        limits: crate::Limits::default(),
        tls: crate::Tls::default(),
        admin_public: false,
        lives: crate::settings::Lives::default(),
        viewers: crate::settings::ViewerSettings::default(),
        hoops: None,
        surface: crate::settings::Surface::Whole,
        access: None,
        tracer: traces::Tracer::off(),
    }
}

async fn problem(response: Response) -> Problem {
    assert_eq!(response.headers()["content-type"], error::PROBLEM_JSON);
    let id = response.headers()[X_REQUEST_ID].clone();
    let status = response.status();
    let length = response.headers()["content-length"].clone();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(length, body.len().to_string());
    let problem: Problem = serde_json::from_slice(&body).unwrap();
    assert_eq!((problem.request_id.as_str(), problem.status), (id.to_str().unwrap(), status.as_u16()));
    problem
}

#[tokio::test]
async fn a_panic_is_answered_like_any_other_error() {
    let edge = edge();
    let route = Route::at("/panic").get(OPEN, async || -> () { panic!("on purpose") });
    let route = route.reaching(Reach::Allowed).guarded(&edge).with_cors(&edge);
    let router = observed(&edge, None, [route].into_iter());
    let request = Request::get("/panic").header("origin", "https://a").body(Body::empty()).unwrap();
    let response = router.oneshot(request).await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    let problem = problem(response).await;
    assert_eq!((problem.status, problem.code), (500, model::api::ErrorCode::Internal));
    assert!(!problem.detail.contains("on purpose"), "what it says is for the log");
}

#[tokio::test]
async fn figures_want_a_credential_where_they_can_be_asked_for_from_elsewhere() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let [reads, measures] = [Scope::Read, Scope::Metrics].map(|scope| {
        let new = NewKey { scopes: [scope].into_iter().collect(), ..NewKey::default() };
        let (key, credential) = ApiKey::generate(new).unwrap();
        key_file::append(keys.path(), &key).unwrap();
        credential
    });
    let options = access::Options { api_keys: Some(keys.path().to_owned()), ..access::Options::default() };
    let access = access::Access::open(&options).unwrap();
    for (admin_public, wanted) in [(false, 200), (true, 401)] {
        let config = Config { admin_public, access: access.clone(), ..config() };
        let edge = Parts::new(config, Registry::embedded(Timing::FARM)).edge;
        let ask = async |path: &str, shown: Option<&str>| {
            let mut request = Request::get(path);
            if let Some(shown) = shown {
                request = request.header("authorization", format!("Bearer {shown}"));
            }
            admin_router(&edge).oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
        };
        assert_eq!(ask("/metrics", None).await, wanted, "{admin_public}");
        assert_eq!(ask("/metrics", Some(reads.expose())).await, 200, "{admin_public}");
        assert_eq!(ask("/metrics", Some(measures.expose())).await, 200, "{admin_public}");
        assert_eq!(ask("/healthz", None).await, 200, "{admin_public}");
        // The key that reads metrics does nothing else.
        for path in ["/v1/nodes", "/v1/spawns", "/v1/waiting", "/v1/audit", "/v1/live"] {
            let request = Request::get(path).header("authorization", format!("Bearer {}", measures.expose()));
            let answer = router(&edge).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(answer.status().as_u16(), 403, "{path}");
        }
        let request =
            Request::post("/spawn").header("authorization", format!("Bearer {}", measures.expose()));
        let answer = router(&edge).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(answer.status().as_u16(), 403);
    }
}

/// What a request writes to the log.
async fn logged(edge: &Arc<Edge>, request: Request<Body>) -> (Response, String) {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    // A test without a subscriber may register the same callsites at this moment, and they would stay off. So they are registered here
    // first, and judged again.
    router(edge).oneshot(Request::get("/healthz").body(Body::empty()).unwrap()).await.unwrap();
    tracing::callsite::rebuild_interest_cache();
    log.0.lock().unwrap().clear();
    let response = router(edge).oneshot(request).await.unwrap();
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    (response, text)
}

#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn a_spawn_that_the_farm_could_not_give_is_a_warning_that_says_what_was_asked() {
    let edge = edge();
    let body = r#"{"pool":"gpu","sessionToken":"secret"}"#;
    let ask = |body: &'static str| {
        Request::post("/spawn").header("content-type", "application/json").body(Body::from(body)).unwrap()
    };
    let (response, log) = logged(&edge, ask(body)).await;
    assert_eq!(problem(response).await.status, 503);
    let line = log.lines().find(|line| line.contains("answered with an error")).unwrap();
    assert!(
        line.contains("WARN") && line.contains("pool=gpu") && line.contains("no-matching-node"),
        "{line}"
    );
    assert!(!log.contains("secret"), "{log}");
    let (_, log) = logged(&edge, ask("{")).await;
    assert!(!log.contains("WARN"), "a caller's mistake is none of the farm's: {log}");
}

fn any_request() -> impl Strategy<Value = Request<Body>> {
    let method = prop_oneof![
        Just("GET"),
        Just("POST"),
        Just("DELETE"),
        Just("PUT"),
        Just("OPTIONS"),
        Just("HEAD"),
        Just("BREW")
    ];
    let path = prop_oneof![
        Just("/spawn".to_owned()),
        Just("/v1/spawns".to_owned()),
        "/v1/spawns/[a-f0-9%-]{0,36}(/log)?",
        "/v1/nodes(/[a-zA-Z0-9%._-]{0,8})?",
        "/v1/nodes/[a-z%]{0,4}/(cordon|uncordon|drain)",
        "(/[a-zA-Z0-9%.~_-]{0,8}){1,4}",
    ];
    let query =
        prop_oneof![Just(String::new()), "\\?(limit|lines|state|node|cursor|x)=[a-z0-9%+&=.-]{0,12}",];
    let header = prop_oneof![
        Just(("x-mine", String::new())),
        "[ -~]{0,10}".prop_map(|v| ("idempotency-key", v)),
        "[ -~]{0,10}".prop_map(|v| ("x-request-id", v)),
        "(application|text)/[a-z+;=-]{0,16}".prop_map(|v| ("content-type", v)),
        Just(("content-type", "application/json".to_owned())),
        Just(("origin", "https://a".to_owned())),
    ];
    let body = prop_oneof![
        Just(Vec::new()),
        proptest::collection::vec(proptest::num::u8::ANY, 0..40),
        "\\{(\"(model|pool|labels|waitSeconds|deadlineSeconds|x)\":(\"?[a-z0-9./]{0,8}\"?),?){0,3}\\}"
            .prop_map(String::into_bytes),
    ];
    let headers = proptest::collection::vec(header, 0..4);
    (method, path, query, headers, body).prop_filter_map(
        "not HTTP",
        |(method, path, query, headers, body)| {
            let request = Request::builder().method(method).uri(format!("{path}{query}"));
            let request = headers.into_iter().fold(request, |r, (name, value)| r.header(name, value));
            request.body(Body::from(body)).ok()
        },
    )
}

#[test]
fn a_body_that_resembles_an_order_is_answered_with_a_problem_of_the_caller_or_of_the_farm() {
    let words = [
        "\"rendererType\":",
        "\"labels\":{",
        "\"tags\":{",
        "\"waitSeconds\":",
        "\"model\":",
        "null",
        "../",
        "1e400",
    ];
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let router = runtime.block_on(async { router(&edge()) });
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/orders"), &words, |bytes| {
        for path in ["/spawn", "/v1/explain", "/v1/nodes/a/drain"] {
            let request = Request::post(path).header("content-type", "application/json");
            let request = request.body(Body::from(bytes.to_vec())).unwrap();
            runtime.block_on(async {
                let response = router.clone().oneshot(request).await.unwrap();
                if response.status().as_u16() >= 400 {
                    assert_ne!(problem(response).await.code, model::api::ErrorCode::Internal);
                }
            });
        }
    });
}

proptest! {
    #[test]
    fn no_request_makes_it_panic_and_every_error_is_a_problem(request in any_request()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let head = request.method() == Method::HEAD;
            let response = router(&edge()).oneshot(request).await.unwrap();
            assert!(response.headers().contains_key(X_REQUEST_ID));
            if response.status().as_u16() >= 400 && !head {
                let problem = problem(response).await;
                assert_ne!(problem.code, model::api::ErrorCode::Internal);
            }
        });
    }
}
