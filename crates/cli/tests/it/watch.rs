//! `hatchery watch` at a live feed that wants to know who listens.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Message, WebSocket};

use crate::process::hatchery;

const TIMEOUT: Duration = Duration::from_secs(30);

/// What comes of a connection.
type Meeting = Box<dyn FnMut(&mut WebSocket<TcpStream>) + Send>;

/// A feed that lets this token in, and does this with each connection. It tells which credentials it was shown.
#[expect(clippy::result_large_err, reason = "what the handshake wants")]
fn feed(good: &'static str, mut meet: Meeting) -> (String, Receiver<Option<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (shown, seen) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let accepted = tungstenite::accept_hdr(stream, |request: &Request, response: Response| {
                let header = request.headers().get("authorization");
                let credential = header.map(|value| value.to_str().unwrap().to_owned());
                let known = credential.as_deref() == Some(good);
                shown.send(credential).ok();
                if known { Ok(response) } else { Err(unauthenticated()) }
            });
            if let Ok(mut socket) = accepted {
                let hello = json!({"type": "hello", "heartbeatSeconds": 30, "connection": "c"});
                socket.send(Message::text(hello.to_string())).ok();
                meet(&mut socket);
            }
        }
    });
    (url, seen)
}

fn unauthenticated() -> ErrorResponse {
    let problem = json!({
        "type": "about:blank", "title": "t", "status": 401, "detail": "the credential has expired",
        "code": "unauthenticated", "requestId": "r1",
    });
    Response::builder().status(401).body(Some(problem.to_string())).unwrap()
}

fn event(seq: u64) -> Message {
    let event =
        json!({"type": "event", "topic": "nodes", "seq": seq, "at": "T", "kind": "node.up", "node": "a"});
    Message::text(event.to_string())
}

fn subscribed(socket: &mut WebSocket<TcpStream>) {
    let hello = json!({"type": "hello", "heartbeatSeconds": 30.0, "connection": "c"});
    socket.send(Message::text(hello.to_string())).unwrap();
    let request = socket.read().unwrap();
    assert!(request.to_text().unwrap().contains("\"subscribe\""), "{request}");
    let answer = json!({"type": "subscribed", "topic": "nodes", "snapshot": [], "seq": 0});
    socket.send(Message::text(answer.to_string())).unwrap();
}

fn watch(url: &str, token_file: &Path) -> Child {
    let mut command = hatchery(&["watch", "nodes", "--server", url]);
    command.arg("--token-file").arg(token_file).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

#[test]
fn a_token_that_expired_is_replaced_by_the_one_that_is_in_the_file_then() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    std::fs::write(&file, "good\n").unwrap();
    let (told, tell) = (channel(), channel::<()>());
    let mut seq = 0;
    let expire = tell.1;
    let (url, shown) = feed(
        "Bearer good",
        Box::new(move |socket| {
            subscribed(socket);
            seq += 1;
            socket.send(event(seq)).unwrap();
            told.0.send(()).ok();
            if seq == 1 {
                expire.recv_timeout(TIMEOUT).unwrap();
                let error = json!({"type": "error", "code": "unauthenticated", "message": "the credential has expired"});
                socket.send(Message::text(error.to_string())).unwrap();
                let reason = "credential expired".into();
                socket.close(Some(CloseFrame { code: 1008.into(), reason })).unwrap();
            }
            // Until the other end has gone.
            while socket.read().is_ok() {}
        }),
    );
    let mut child = watch(&url, &file);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("node.up"));
    told.1.recv_timeout(TIMEOUT).unwrap();
    assert_eq!(shown.recv_timeout(TIMEOUT).unwrap().as_deref(), Some("Bearer good"));

    // The next one is not there yet, and a wrong one is for a moment.
    std::fs::write(&file, "wrong\n").unwrap();
    tell.0.send(()).unwrap();
    assert_eq!(shown.recv_timeout(TIMEOUT).unwrap().as_deref(), Some("Bearer wrong"));
    std::fs::write(&file, "good\n").unwrap();
    while shown.recv_timeout(TIMEOUT).unwrap().as_deref() != Some("Bearer good") {}
    assert!(lines.next().unwrap().unwrap().contains("node.up"), "it goes on");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_refusal_ends_the_watch_with_the_front_doors_words() {
    let (url, shown) = feed("Bearer good", Box::new(|_| ()));
    let ran: crate::process::Ran = hatchery(&["watch", "--server", &url]).output().unwrap().into();
    assert_eq!(ran.code, 4, "{ran:?}");
    assert!(ran.stderr.contains("the credential has expired (unauthenticated, request r1)"), "{ran:?}");
    assert!(ran.stderr.contains("note: --token-file FILE"), "{ran:?}");
    assert_eq!(shown.recv_timeout(TIMEOUT).unwrap(), None);

    // A token that is always the same is not shown again and again once it has expired.
    for (code, message) in
        [("unauthenticated", "the credential has expired"), ("forbidden", "nodes needs the scope read")]
    {
        let (url, shown) = feed(
            "Bearer good",
            Box::new(move |socket| {
                socket.read().unwrap();
                let error = json!({"type": "error", "code": code, "message": message});
                socket.send(Message::text(error.to_string())).unwrap();
                while socket.read().is_ok() {}
            }),
        );
        let mut command = hatchery(&["watch", "nodes", "--server", &url]);
        let ran: crate::process::Ran = command.env("HATCHERY_TOKEN", "good").output().unwrap().into();
        assert_eq!(ran.code, 4, "{ran:?}");
        assert_eq!(ran.stderr, format!("error: {url} says: {message} ({code})\n"));
        assert_eq!(shown.try_iter().count(), 1);
    }
}
