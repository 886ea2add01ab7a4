//! The one viewer a server has, and everybody else who connects.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;
use tungstenite::Message;

use crate::process::sim;
use crate::receiver::{Manner, Receiver};
use crate::viewer::{Viewer, rest};

#[test]
fn a_client_side_viewer_opens_a_model() {
    let mut sim = sim().run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    assert_eq!(viewer.protocol(), None);
    assert!(viewer.response.headers().get("Sec-WebSocket-Extensions").is_none());
    viewer.open_model("");
    let answer = viewer.receives_json();
    assert_eq!(answer["command"], "OPEN_MODEL_SUCCEEDED");
    assert_eq!(answer["model_name"], "_empty");
    assert!(answer["simulator"].as_str().unwrap().contains("ts3d-sc-sim"), "it says what it is: {answer}");
    sim.logs("server has received initial data from the WS connection");
    viewer.leaves();
    sim.logs("server disconnect: ");
    sim.ends_with(0);
}

#[test]
fn a_server_side_viewer_gets_an_event_and_pictures_that_move() {
    let mut sim = sim().option("--ssr", "true").run();
    sim.listens();
    let mut viewer = Viewer::server_side(&sim);
    assert_eq!(viewer.protocol(), Some("binary"));
    viewer.render(None);
    let event = viewer.receives();
    assert_eq!(event[0], 0x7b);
    let event: serde_json::Value = serde_json::from_slice(&event).unwrap();
    assert_eq!(event["event"], "session_started");
    let mut pictures = Vec::new();
    for _ in 0..3 {
        let jpeg = viewer.receives_picture();
        assert_eq!((&jpeg[..2], &jpeg[jpeg.len() - 2..]), (&[0xff, 0xd8][..], &[0xff, 0xd9][..]));
        let frame = jpeg.windows(4).position(|bytes| bytes == [0xff, 0xc0, 0, 17]).expect("a baseline frame");
        assert_eq!(
            jpeg[frame + 5..frame + 9],
            [1, 104, 1, 224],
            "480 by 360, as wide a picture as the window"
        );
        assert!(!pictures.contains(&jpeg), "another picture each time");
        pictures.push(jpeg);
        viewer.acknowledges();
    }
    viewer.leaves();
    sim.ends_with(0);
}

#[test]
fn a_viewer_that_acknowledges_no_picture_gets_one_and_may_resize_and_call_meanwhile() {
    let sim = sim().option("--ssr", "true").run();
    sim.listens();
    let mut viewer = Viewer::server_side(&sim);
    viewer.render(None);
    viewer.receives();
    viewer.receives_picture();
    viewer.send(Message::binary(b"R\x68\0\0\0\0\0".to_vec()));
    let resized = json!({"command": "SERVER_SIDE_CLIENT_INFO", "width": 300, "height": 900});
    viewer.send(Message::text(resized.to_string()));
    assert!(viewer.hears_nothing_for(Duration::from_millis(600)), "more than two periods");
    viewer.acknowledges();
    let jpeg = viewer.receives_picture();
    let frame = jpeg.windows(4).position(|bytes| bytes == [0xff, 0xc0, 0, 17]).expect("a baseline frame");
    assert_eq!(jpeg[frame + 5..frame + 9], [1, 224, 0, 160], "160 by 480, as narrow as the window");
    sim.logs("ignoring a call of the session");
}

#[test]
fn binary_is_echoed_among_other_offers_and_nothing_else_is() {
    for (offer, echoed) in [("chat, binary", Some("binary")), ("chat", None)] {
        let sim = sim().run();
        sim.listens();
        match Viewer::connect(&sim, "/", Some(offer)) {
            Ok(viewer) => assert_eq!(viewer.protocol(), echoed),
            Err(error) => assert_eq!(echoed, None, "{error}"),
        }
    }
}

#[test]
fn the_model_file_wins_over_what_the_viewer_asks_for() {
    let directory = tempfile::tempdir().unwrap();
    let model = directory.path().join("bolt.scs");
    std::fs::write(&model, "").unwrap();
    let sim = sim()
        .option("--model-search-directories", &format!("/nowhere;{}", directory.path().display()))
        .option("--model-file", "bolt.scs")
        .run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    assert_eq!(viewer.receives_json()["model_name"], model.display().to_string());
}

#[test]
fn the_right_token_opens_a_model() {
    let start = || sim().option("--session-token", "right").option("--ssr", "on");
    let sim = start().run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("right");
    assert_eq!(viewer.receives_json()["command"], "OPEN_MODEL_SUCCEEDED");

    let sim = start().run();
    sim.listens();
    let mut viewer = Viewer::server_side(&sim);
    viewer.render(Some("right"));
    assert_eq!(viewer.receives_json()["command"], "open_model_succeeded");
}

#[test]
fn a_token_that_was_not_wanted_is_ignored() {
    let sim = sim().run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("whatever");
    assert_eq!(viewer.receives_json()["command"], "OPEN_MODEL_SUCCEEDED");
}

#[test]
fn a_wrong_or_missing_token_is_refused_in_band() {
    for token in ["wrong", ""] {
        let mut sim = sim().option("--session-token", "right").run();
        sim.listens();
        let mut viewer = Viewer::client_side(&sim);
        viewer.open_model(token);
        let answer = viewer.receives_json();
        assert_eq!(answer["command"], "OPEN_MODEL_FAILED");
        assert_eq!(answer["reason"], "BAD_SESSION_TOKEN");
        viewer.is_closed();
        sim.ends_with(0);
    }
    for token in [Some("wrong"), None] {
        let mut sim = sim().option("--session-token", "right").option("--ssr", "1").run();
        sim.listens();
        let mut viewer = Viewer::server_side(&sim);
        viewer.render(token);
        let answer = viewer.receives();
        assert_eq!(answer[0], 0x7b);
        let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["event"], "open_model_failed");
        assert_eq!(answer["data"]["reason"], "BAD_SESSION_TOKEN");
        viewer.is_closed();
        sim.ends_with(0);
    }
}

#[test]
fn a_renderer_that_is_not_enabled_is_refused_in_band() {
    let server_side_only = sim().option("--csr", "false").option("--ssr", "true").run();
    server_side_only.listens();
    let mut viewer = Viewer::client_side(&server_side_only);
    viewer.open_model("");
    let answer = viewer.receives_json();
    assert_eq!(answer["command"], "OPEN_MODEL_FAILED");
    assert_eq!(answer["reason"], "CSR_NOT_ENABLED");

    let client_side_only = sim().run();
    client_side_only.listens();
    let mut viewer = Viewer::server_side(&client_side_only);
    viewer.render(None);
    let answer = viewer.receives_json();
    assert_eq!(answer["command"], "open_model_failed");
    assert_eq!(answer["reason"], "SSR_NOT_ENABLED");
}

#[test]
fn another_version_is_refused_where_one_is_asked_for() {
    let table = [
        ("SC_SIM_NETWORK_VERSION", "1234567890", None),
        ("SC_SIM_STREAM_VERSION", "76", None),
        ("SC_SIM_NETWORK_VERSION", "1", Some("BAD_NETWORK_VERSION")),
        ("SC_SIM_STREAM_VERSION", "70", Some("BAD_STREAM_VERSION")),
    ];
    for (name, version, reason) in table {
        let sim = sim().env(name, version).run();
        sim.listens();
        let mut viewer = Viewer::client_side(&sim);
        viewer.open_model("");
        assert_eq!(viewer.receives_json()["reason"].as_str(), reason, "{name}={version}");
    }
}

#[test]
fn a_second_viewer_is_turned_away_and_the_first_stays() {
    let mut sim = sim().run();
    sim.listens();
    let mut first = Viewer::client_side(&sim);
    sim.logs("client connected. connection-count=1");
    assert!(Viewer::connect(&sim, "/", None).is_err());
    sim.logs("connection attempted when one already existed - ignoring it");
    first.open_model("");
    assert_eq!(first.receives_json()["command"], "OPEN_MODEL_SUCCEEDED");
    first.leaves();
    sim.ends_with(0);
}

#[test]
fn a_silent_connection_keeps_no_other_waiting() {
    let sim = sim().run();
    sim.listens();
    let silent: Vec<_> = (0..5).map(|_| sim.connect()).collect();
    let asked = Instant::now();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    viewer.receives_json();
    assert!(asked.elapsed() < Duration::from_secs(5), "not after their timeout");
    drop(silent);
}

#[test]
fn plain_http_is_answered_and_is_not_the_viewer() {
    let sim = sim().run();
    sim.listens();
    let table = [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 426 "),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 400 "),
        ("nonsense\r\n\r\n", "HTTP/1.1 400 "),
    ];
    for (request, status) in table {
        let mut stream = sim.connect();
        stream.write_all(request.as_bytes()).unwrap();
        let answer = rest(&stream);
        assert!(answer.starts_with(status), "{request}: {answer}");
    }
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    viewer.receives_json();
}

#[test]
fn unknown_frames_are_ignored() {
    let sim = sim().run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.send(Message::text(r#"{"command":"OPEN_MODEL"}"#));
    viewer.send(Message::binary(vec![1, 2, 3]));
    viewer.open_model("");
    assert_eq!(viewer.receives_json()["command"], "OPEN_MODEL_SUCCEEDED");
    sim.logs("ignoring an unknown frame of 3 bytes");
}

#[test]
fn a_message_beyond_16_mib_ends_the_conversation() {
    let mut sim = sim().run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    // A frame that claims 17 MiB; what it claims is enough.
    let mut header = vec![0x82, 0xff];
    header.extend_from_slice(&(17_u64 << 20).to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    viewer.stream().write_all(&header).unwrap();
    viewer.is_closed();
    sim.logs("server disconnect: ");
    sim.ends_with(0);
}

#[test]
fn a_dropped_connection_is_a_viewer_that_left() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim().option("--liveliness-endpoint", &receiver.url("")).run();
    sim.listens();
    let viewer = Viewer::client_side(&sim);
    viewer.stream().shutdown(Shutdown::Both).unwrap();
    sim.ends_with(0);
    receiver.gets("disconnect");
}

#[test]
fn without_data_from_a_viewer_the_initial_use_timeout_ends_the_server() {
    let connected_but_silent = [false, true];
    for connected in connected_but_silent {
        let mut sim = sim().option("--initial-use-duration", "1").run();
        sim.listens();
        let viewer = connected.then(|| Viewer::client_side(&sim));
        sim.logs("ScServer: exiting due to initial-use timeout");
        sim.ends_with(0);
        drop(viewer);
    }
}

#[test]
fn the_first_data_ends_the_initial_use_timeout() {
    let receiver = Receiver::new(Manner::Keep);
    let started = Instant::now();
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--liveliness-update-frequency", "0.1")
        .option("--initial-use-duration", "1")
        .run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.send(Message::text("anything"));
    sim.logs("server has received initial data from the WS connection");
    receiver.gets_one_after(started + Duration::from_millis(1500));
    assert!(sim.is_running());
}

#[test]
fn exit_on_load_finish_exits_after_the_answer() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--exit-on-load-finish", "true")
        .option("--liveliness-endpoint", &receiver.url(""))
        .run();
    sim.listens();
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    assert_eq!(viewer.receives_json()["command"], "OPEN_MODEL_SUCCEEDED");
    viewer.is_closed();
    sim.ends_with(0);
    receiver.gets("disconnect");
}

#[test]
fn sigterm_is_left_to_its_default() {
    let mut sim = sim().run();
    sim.listens();
    sim.signal(Signal::TERM);
    assert_eq!(sim.ends().signal(), Some(15));
}
