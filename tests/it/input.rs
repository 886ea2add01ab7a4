//! Bad bodies of every kind: refused with the right code and a word that names what is wrong, start nothing, break
//! nothing. Bad paths, queries and headers are in `input_routes`.

use std::os::unix::fs::symlink;

use hatchery_tests::http::Request;
use hatchery_tests::{AgentPlan, Client, Farm, audit::all_spawns};
use serde_json::{Value, json};

/// Nothing came of any of it, and the front door is as well as before.
pub(crate) async fn unharmed(farm: Farm) {
    let door = farm.door(0);
    assert_eq!(all_spawns(door, "").await, Vec::<Value>::new());
    assert!(farm.processes().is_empty());
    assert_eq!(door.get("/healthz").send().await.status, 200);
    let answer = door.spawned(&json!({})).await;
    farm.stop([answer["id"].as_str().unwrap()]).await;
    farm.finish().await;
}

pub(crate) fn post(door: Client, body: impl Into<Vec<u8>>) -> Request {
    door.post("/spawn").header("content-type", "application/json").body(body)
}

/// Refused as an invalid request that names `what` is wrong, if that can be named.
pub(crate) async fn invalid(request: Request, what: &str) {
    let shown = String::from_utf8_lossy(&request.bytes()).chars().take(400).collect::<String>();
    let answer = request.send().await;
    assert_eq!(answer.status, 400, "{shown}\n{answer:?}");
    let problem = answer.problem(400, "invalid-request");
    assert!(problem.names(what), "{shown}\n{} does not name {what}", problem.json);
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused() {
    let farm = Farm::small(2).await;
    let deep = "[".repeat(60_000);
    let deep_labels = format!(r#"{{"labels":{}"#, r#"{"a":"#.repeat(9_000));
    for body in [
        "{",
        "}",
        "nonsense",
        "{\"model\":",
        "{\"model\":\"a\"",
        "{\"model\"}",
        "{model:\"a\"}",
        "{'model':'a'}",
        "[]",
        "[\"csr\"]",
        "[{}]",
        "\"x\"",
        "\"{}\"",
        "42",
        "-1",
        "1e400",
        "null",
        "true",
        "{} x",
        "{}{}",
        "{},",
        "//\n{}",
        "{\"a\u{0}\":1}",
        "\u{0}",
        "{\"model\":\"a\u{1}\"}",
        "{\"model\":\"a\nb\"}",
        r#"{"model":"\ud800"}"#,
        r#"{"model":"\x41"}"#,
        "NaN",
        "{\"waitSeconds\":NaN}",
        "{\"waitSeconds\":0x10}",
        "{\"waitSeconds\":+1}",
        "{\"waitSeconds\":01}",
        &deep,
        &deep_labels,
    ] {
        invalid(post(farm.door(0), body), "").await;
        invalid(farm.door(0).post("/spawn").header("content-type", "application/json").chunked(body), "")
            .await;
    }
    for body in [
        &b"\xff"[..],
        b"{\"model\":\"\xff\"}",
        b"{\"\xc3\x28\":1}",
        b"\xfe\xff\x00{\x00}",
        b"{\"model\":\"\xed\xa0\x80\"}",
    ] {
        invalid(post(farm.door(0), body), "").await;
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn an_unknown_field_is_refused_by_its_name() {
    let farm = Farm::small(2).await;
    for field in [
        "renderertype",
        "RendererType",
        "renderer_type",
        "class",
        "params",
        "models",
        "",
        " model",
        "env",
        "argv",
    ] {
        invalid(post(farm.door(0), json!({field: "csr"}).to_string()), field).await;
    }
    invalid(post(farm.door(0), r#"{"model":"a","model":"b"}"#), "model").await;
    let long = "f".repeat(10_000);
    let answer = post(farm.door(0), json!({&long: 1}).to_string()).send().await;
    answer.problem(400, "invalid-request");
    unharmed(farm).await;
}

#[tokio::test]
async fn a_field_of_the_wrong_type_is_refused_by_its_name() {
    let farm = Farm::small(2).await;
    let any = [json!(1), json!(1.5), json!(true), json!([]), json!({}), json!(["a"]), json!({"a": "b"})];
    for field in ["rendererType", "model", "sessionToken", "pool"] {
        for value in &any {
            invalid(post(farm.door(0), json!({field: value}).to_string()), field).await;
        }
    }
    for value in [json!("CSR"), json!("Csr"), json!("both"), json!(""), json!("csr "), json!("csr_session")] {
        invalid(post(farm.door(0), json!({"rendererType": value}).to_string()), "rendererType").await;
    }
    for value in [
        json!(1),
        json!("a=b"),
        json!([]),
        json!([["a", "b"]]),
        json!({"a": 1}),
        json!({"a": null}),
        json!({"a": {}}),
        json!({"a": ["b"]}),
    ] {
        invalid(post(farm.door(0), json!({"labels": value}).to_string()), "labels").await;
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn an_absurd_number_is_refused() {
    let farm = Farm::small(2).await;
    for value in [
        "-1",
        "61",
        "3.5",
        "\"5\"",
        "99999999999999999999",
        "1e400",
        "-1e400",
        "4294967296",
        "4294967297",
        "1e2",
        "0.5",
        "true",
        "[5]",
        "{}",
        "18446744073709551616",
        "1000000",
        "\"\"",
        "60.0000001",
    ] {
        let body = format!(r#"{{"waitSeconds":{value}}}"#);
        let answer = post(farm.door(0), body.as_str()).send().await;
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let problem = answer.problem(400, "invalid-request");
        // A number that fits no number at all is an error of the JSON itself.
        assert!(value.contains("e400") || problem.names("waitSeconds"), "{body}: {}", problem.json);
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn a_model_never_leads_outside_the_model_directories() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(2)).start().await;
    let models = farm.mark().join("models");
    symlink("/etc", models.join("out")).unwrap();
    symlink("/etc/passwd", models.join("passwd.scs")).unwrap();
    symlink("../license", models.join("license.scs")).unwrap();
    for model in [
        "../x",
        "..",
        ".",
        "./a",
        "a/..",
        "a/../../b",
        "a/./b",
        "a//b",
        "a/",
        "/",
        "//",
        "/etc/passwd",
        "//etc/passwd",
        "/bolt.scs",
        "C:\\x",
        "c:/x",
        "C:x",
        "\\\\h\\s",
        "\\x",
        "a\\..\\..\\b",
        "..\\x",
        "~/x",
        "~",
        "~root/x",
        "a\u{0}b",
        "a\nb",
        "a\rb",
        "a\tb",
        "\u{1b}[31m",
        "a\u{7f}b",
        "\u{0}",
        "",
        "out/passwd",
        "out",
        "passwd.scs",
        "license.scs",
    ] {
        invalid(post(farm.door(0), json!({"model": model}).to_string()), "model").await;
    }
    let spawns = all_spawns(farm.door(0), "").await;
    assert!(spawns.iter().all(|spawn| spawn["state"] == "exited"), "{spawns:?}");
    assert!(farm.processes().is_empty());
    farm.finish().await;
}

#[tokio::test]
async fn a_token_that_no_argument_can_hold_is_refused() {
    let farm = Farm::small(2).await;
    for token in ["\u{0}", "a\u{0}b"] {
        invalid(post(farm.door(0), json!({"sessionToken": token}).to_string()), "sessionToken").await;
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn a_body_beyond_64_kib_is_refused_and_one_of_64_kib_is_not() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    let sized = |size: usize| format!("{{{}}}", " ".repeat(size - 2));
    for size in [(64 << 10) + 1, 70_000, 1 << 20] {
        post(door, sized(size)).send().await.problem(413, "body-too-large");
        let chunked = door.post("/spawn").header("content-type", "application/json").chunked(sized(size));
        chunked.send().await.problem(413, "body-too-large");
    }
    // The claim alone is enough, nobody waits for what it claims.
    let claim = "POST /spawn HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 999999999999\r\n\r\n{";
    door.raw(claim.as_bytes()).await.unwrap().problem(413, "body-too-large");
    assert!(farm.processes().is_empty());
    for request in [
        post(door, sized(64 << 10)),
        door.post("/spawn").header("content-type", "application/json").chunked(sized(64 << 10)),
    ] {
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        farm.stop([answer.json()["id"].as_str().unwrap()]).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_body_of_another_media_type_is_refused() {
    let farm = Farm::small(2).await;
    for media in [
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/octet-stream",
        "application/xml",
        "application/jsonx",
        "application",
        "json",
        "*/*",
        "",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-16",
        "application/json;charset=\"latin1\"",
    ] {
        let answer = farm.door(0).post("/spawn").header("content-type", media).body("{}").send().await;
        assert_eq!(answer.status, 415, "{media:?}: {answer:?}");
        answer.problem(415, "unsupported-media-type");
    }
    unharmed(farm).await;
}

#[tokio::test]
async fn every_way_to_say_nothing_is_a_request_for_the_defaults() {
    let farm = Farm::small(8).await;
    let door = farm.door(0);
    let json = |media: &str, body: &str| door.post("/spawn").header("content-type", media).body(body);
    let mut ids = Vec::new();
    for request in [
        door.post("/spawn"),
        door.post("/spawn").header("content-type", "application/json"),
        json("application/json", ""),
        json("application/json", "{}"),
        json("application/json", " \r\n\t{ } \n"),
        json("application/json; charset=utf-8", "{}"),
        json("APPLICATION/JSON;charset=\"UTF-8\"", "{}"),
        door.post("/spawn").header("content-type", "application/json").chunked(""),
    ] {
        let shown = String::from_utf8_lossy(&request.bytes()).into_owned();
        let answer = request.send().await;
        assert_eq!(answer.status, 200, "{shown}\n{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.json()["rendererType"], "csr");
        ids.push(answer.json()["id"].as_str().unwrap().to_owned());
    }
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn huge_and_broken_requests_disturb_no_other_caller() {
    let farm = Farm::small(2).await;
    let door = farm.door(0);
    for size in [10_000, 100_000, 2_000_000] {
        let answer = door.get("/healthz").header("x-big", &"v".repeat(size)).try_send().await;
        // Served, refused, or hung up on; what matters is what comes after.
        assert!(
            answer.as_ref().is_err() || answer.as_ref().is_ok_and(|a| [200, 400, 431].contains(&a.status)),
            "{answer:?}"
        );
    }
    let long = format!("/{}", "p".repeat(100_000));
    let answer = door.get(&long).try_send().await;
    assert!(
        answer.as_ref().is_err() || answer.as_ref().is_ok_and(|a| [404, 414, 431].contains(&a.status)),
        "{answer:?}"
    );
    for garbage in [
        &b"\x00\x01\x02\x03\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"POST /spawn HTTP/1.1\r\nhost: localhost\r\nbad header\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ] {
        if let Ok(answer) = door.raw(&[garbage, b"\r\n\r\n"].concat()).await {
            assert!(
                (400..500).contains(&answer.status),
                "{:?}: {answer:?}",
                String::from_utf8_lossy(garbage)
            );
        }
        assert_eq!(door.get("/healthz").send().await.status, 200);
    }
    unharmed(farm).await;
}
