use proptest::prelude::*;

use super::*;

fn refused(body: &str) -> Invalid {
    match SpawnOrder::parse(body.as_bytes()) {
        Err(invalid) => invalid,
        Ok(order) => panic!("{body} was taken for {order:?}"),
    }
}

#[test]
fn every_field_is_optional_and_null_is_absent() {
    let plain = SpawnOrder::parse(b"").unwrap();
    assert_eq!(plain.demand.renderer, RendererType::Csr);
    assert_eq!((plain.wait, &plain.model, &plain.session_token), (Duration::ZERO, &None, &None));
    for body in [
        "{}",
        " \n\t{ } \r\n",
        r#"{"rendererType":null,"model":null,"sessionToken":null,"pool":null,"labels":null,"waitSeconds":null}"#,
        r#"{"rendererType":"csr","labels":{},"waitSeconds":0}"#,
    ] {
        assert_eq!(SpawnOrder::parse(body.as_bytes()).unwrap(), plain, "{body}");
    }
}

#[test]
fn a_number_is_the_same_however_it_is_written() {
    for (text, seconds) in [("10", 10), ("10.0", 10), ("1e1", 10), ("0.0", 0), ("-0.0", 0), ("6.0e1", 60)] {
        let order = SpawnOrder::parse(format!(r#"{{"waitSeconds":{text}}}"#).as_bytes()).unwrap();
        assert_eq!(order.wait.as_secs(), seconds, "{text}");
    }
}

#[test]
fn a_whole_order_is_understood() {
    let body = r#"{"rendererType":"ssr","model":"cars/a b.scs","sessionToken":"s\u00e9cret","pool":"gpu",
                   "labels":{"sdk":"2025.1","empty":""},"waitSeconds":60}"#;
    let order = SpawnOrder::parse(body.as_bytes()).unwrap();
    assert_eq!(order.demand.renderer, RendererType::Ssr);
    assert_eq!(order.demand.pool.as_deref(), Some("gpu"));
    assert_eq!(order.demand.labels.len(), 2);
    assert_eq!(order.model.as_deref(), Some("cars/a b.scs"));
    assert_eq!(order.session_token.as_deref(), Some("sécret"));
    assert_eq!(order.wait, Duration::from_secs(60));
}

#[test]
fn a_wrong_field_is_named_in_field_and_detail() {
    let many = (0..65).map(|i| format!("\"l{i}\":\"v\"")).collect::<Vec<_>>().join(",");
    let long = "x".repeat(4097);
    for (body, field) in [
        (r#"{"colour":1}"#.to_owned(), "colour"),
        (r#"{"renderer_type":"csr"}"#.to_owned(), "renderer_type"),
        (r#"{"model":"a","model":"b"}"#.to_owned(), "model"),
        (r#"{"rendererType":"CSR"}"#.to_owned(), "rendererType"),
        (r#"{"rendererType":1}"#.to_owned(), "rendererType"),
        (r#"{"rendererType":{"csr":null}}"#.to_owned(), "rendererType"),
        (r#"{"rendererType":["csr"]}"#.to_owned(), "rendererType"),
        (r#"{"waitSeconds":61}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":-1}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":1.5}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":-1.0}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":1e2}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":1e300}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":1e400}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":99999999999999999999999}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":"5"}"#.to_owned(), "waitSeconds"),
        (r#"{"waitSeconds":true}"#.to_owned(), "waitSeconds"),
        (r#"{"model":7}"#.to_owned(), "model"),
        (r#"{"model":""}"#.to_owned(), "model"),
        (r#"{"model":"/etc/passwd"}"#.to_owned(), "model"),
        (r#"{"model":"~/a"}"#.to_owned(), "model"),
        (r#"{"model":"a/../b"}"#.to_owned(), "model"),
        (r#"{"model":".."}"#.to_owned(), "model"),
        (r#"{"model":"./a"}"#.to_owned(), "model"),
        (r#"{"model":"a//b"}"#.to_owned(), "model"),
        (r#"{"model":"a/"}"#.to_owned(), "model"),
        (r#"{"model":"a\\b"}"#.to_owned(), "model"),
        (r#"{"model":"C:/a"}"#.to_owned(), "model"),
        (r#"{"model":"file://a"}"#.to_owned(), "model"),
        (r#"{"model":"a\u0000b"}"#.to_owned(), "model"),
        (r#"{"model":"a\nb"}"#.to_owned(), "model"),
        (format!("{{\"model\":\"{long}\"}}"), "model"),
        (r#"{"sessionToken":""}"#.to_owned(), "sessionToken"),
        (r#"{"sessionToken":"a\tb"}"#.to_owned(), "sessionToken"),
        (r#"{"sessionToken":["a"]}"#.to_owned(), "sessionToken"),
        (format!("{{\"sessionToken\":\"{long}\"}}"), "sessionToken"),
        (r#"{"pool":"a b"}"#.to_owned(), "pool"),
        (r#"{"pool":""}"#.to_owned(), "pool"),
        (r#"{"pool":{}}"#.to_owned(), "pool"),
        (r#"{"labels":[]}"#.to_owned(), "labels"),
        (r#"{"labels":"a=b"}"#.to_owned(), "labels"),
        (r#"{"labels":{"a":1}}"#.to_owned(), "labels.a"),
        (r#"{"labels":{"a":null}}"#.to_owned(), "labels.a"),
        (r#"{"labels":{"a b":"c"}}"#.to_owned(), "labels"),
        (r#"{"labels":{"a":"c d"}}"#.to_owned(), "labels"),
        (r#"{"labels":{"a":"1","a":"1"}}"#.to_owned(), "labels"),
        (format!("{{\"labels\":{{{many}}}}}"), "labels"),
        (r#"{"tags":["a=b"]}"#.to_owned(), "tags"),
        (r#"{"tags":{"a":1}}"#.to_owned(), "tags.a"),
        (r#"{"tags":{"a":null}}"#.to_owned(), "tags.a"),
        (r#"{"tags":{"":"b"}}"#.to_owned(), "tags"),
        (r#"{"tags":{"a=b":"c"}}"#.to_owned(), "tags"),
        (r#"{"tags":{"a":"b\u0007"}}"#.to_owned(), "tags"),
        (r#"{"tags":{"a":"1","a":"1"}}"#.to_owned(), "tags"),
        (format!("{{\"tags\":{{{many}}}}}"), "tags"),
        (format!("{{\"tags\":{{\"a\":\"{long}\"}}}}"), "tags"),
    ] {
        let invalid = refused(&body);
        assert_eq!(invalid.field.as_deref(), Some(field), "{body}: {}", invalid.detail);
        assert!(invalid.detail.contains(field), "{body}: {}", invalid.detail);
        assert!(invalid.detail.chars().count() < 1000, "{body}");
    }
}

#[test]
fn what_is_not_json_says_where() {
    for (body, place) in [
        ("{", "line 1 column 1"),
        ("{\"model\":\n tru}", "line 2"),
        ("{} {}", "line 1 column 4"),
        ("{\"model\":\"a\",}", "line 1 column 14"),
        ("{'model':1}", "line 1 column 2"),
    ] {
        let invalid = refused(body);
        assert!(invalid.detail.contains(place), "{body}: {}", invalid.detail);
    }
    assert!(SpawnOrder::parse(b"{\"model\":\"\xff\"}").unwrap_err().detail.contains("UTF-8 from byte 10"));
}

#[test]
fn only_an_object_will_do() {
    for body in ["[]", "[\"csr\"]", "null", "1", "\"x\"", "true", " ", "\u{feff}{}"] {
        let invalid = refused(body);
        assert!(invalid.detail.contains("JSON object"), "{body}: {}", invalid.detail);
    }
}

#[test]
fn equal_orders_have_equal_fingerprints() {
    let print = |body: &str| SpawnOrder::parse(body.as_bytes()).unwrap().fingerprint();
    assert_eq!(print(""), print(r#"{"rendererType":"csr","waitSeconds":0,"labels":{}}"#));
    assert_eq!(print(r#"{"labels":{"a":"1","b":"2"}}"#), print(r#"{ "labels": {"b":"2","a":"1"} }"#));
    let different = [
        "{}",
        r#"{"rendererType":"ssr"}"#,
        r#"{"model":"a"}"#,
        r#"{"sessionToken":"a"}"#,
        r#"{"pool":"a"}"#,
        r#"{"labels":{"a":"1"}}"#,
        r#"{"waitSeconds":1}"#,
        r#"{"tags":{"a":"1"}}"#,
        r#"{"tags":{"a":"2"}}"#,
    ];
    let prints: std::collections::BTreeSet<_> = different.iter().map(|b| print(b)).collect();
    assert_eq!(prints.len(), different.len());
}

proptest! {
    #[test]
    fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(SpawnOrder::parse(&body));
    }

    #[test]
    fn no_text_between_braces_makes_it_panic(body in r#"\{("(model|pool|labels|waitSeconds|x)":("?[a-z0-9./\\\[\]{}-]{0,8}"?),?){0,4}\}?"#) {
        drop(SpawnOrder::parse(body.as_bytes()));
    }

    #[test]
    fn an_accepted_model_stays_inside_its_directory(model in "[a.~:/\\\\]{1,8}") {
        let body = serde_json::json!({ "model": model }).to_string();
        if SpawnOrder::parse(body.as_bytes()).is_ok() {
            let path = std::path::Path::new(&model);
            prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
        }
    }
}
const WHOLE: &str = r#"{"rendererType":"ssr","model":"cars/a.scs","sessionToken":"secret","pool":"gpu",
    "labels":{"zone":"b","sdk":"2025.1"},"waitSeconds":60}"#;

/// Front doors of different releases compare these: a change here answers repeated requests with a conflict while a farm is
/// upgraded.
#[test]
fn fingerprints_stay_what_they_are() {
    for (body, fingerprint, legacy) in [
        ("", "294b3a24-000f-51db-ae2b-59bbfc1942ad", "64d4a2c0-79de-515e-a65c-4c26c147e3c4"),
        (WHOLE, "96776516-3582-599a-a6a5-149be73fb553", "134b6f9a-997f-551a-9da3-a3ad7921af69"),
    ] {
        let order = SpawnOrder::parse(body.as_bytes()).unwrap();
        assert_eq!(order.fingerprint().to_string(), fingerprint, "{body}");
        assert_eq!(order.legacy_fingerprint().to_string(), legacy, "{body}");
    }
}

#[test]
fn the_log_says_what_was_asked_and_never_the_session_token() {
    let text = SpawnOrder::parse(WHOLE.as_bytes()).unwrap().to_string();
    assert_eq!(
        text, "renderer=ssr pool=gpu label.sdk=2025.1 label.zone=b model=\"cars/a.scs\" wait=60s",
        "no token"
    );
    assert_eq!(SpawnOrder::parse(b"").unwrap().to_string(), "renderer=csr");
    let tagged = SpawnOrder::parse(br#"{"tags":{"user":"ann","visit":"7"}}"#).unwrap();
    assert_eq!(tagged.to_string(), "renderer=csr tags=2", "tags may name people");
    assert_eq!(tagged.tags.len(), 2);
}
