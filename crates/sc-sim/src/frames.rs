//! The frames of a viewer and their answers: a small part of the vendor's protocol, as observed from its published viewer
//! (7.4 to 25.1).
//!
//! A client-side viewer speaks JSON in binary frames (`OPEN_MODEL`, `CONFIGURE_STREAM`, `SEND_STREAM`); a server-side
//! viewer speaks JSON in text frames (`SERVER_SIDE_RENDER`, `SERVER_SIDE_CLIENT_INFO`, `SERVER_SETTINGS`, `ACK`), and once
//! its session has started it sends calls in binary frames that begin with `R`.
//!
//! What a server-side viewer receives is binary and distinguished by its first byte: `{` is a JSON event, 0 a picture (see
//! [`crate::stream`]). It reads the members `event` and `data` of an event. A client-side viewer takes binary frames for
//! the content of a model, which the simulator has not, and fails with "Unknown opcode" at anything else; text frames it
//! leaves alone. So the simulator answers it in text, with the same `command`, and the text says who answers.

use serde_json::{Value, json};
use tungstenite::Message;

/// Where the viewer's pictures are rendered, which decides its dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Renderer {
    Client,
    Server,
}

/// The first frame of either viewer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    pub(crate) renderer: Renderer,
    pub(crate) model: String,
    /// Empty from a client-side viewer without a token, absent from a server-side one.
    pub(crate) token: Option<String>,
    pub(crate) stream_version: Option<String>,
    pub(crate) network_version: Option<String>,
    pub(crate) size: (u16, u16),
}

/// A parsed frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Frame {
    Open(Open),
    /// A server-side viewer's window has this size now.
    Resize((u16, u16)),
    /// A server-side viewer has got a picture.
    Acknowledge,
    /// A command that needs no answer here.
    Known(String),
    /// What a server-side viewer calls in its session, to which the simulator has no answer.
    Call,
    Unknown,
}

/// Why a model is not opened. The first three are the vendor's, the others the simulator's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Token,
    NetworkVersion { expected: String, actual: String },
    StreamVersion { expected: String, actual: String },
    NoClientSide,
    NoServerSide,
}

impl Refusal {
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Token => "BAD_SESSION_TOKEN",
            Self::NetworkVersion { .. } => "BAD_NETWORK_VERSION",
            Self::StreamVersion { .. } => "BAD_STREAM_VERSION",
            Self::NoClientSide => "CSR_NOT_ENABLED",
            Self::NoServerSide => "SSR_NOT_ENABLED",
        }
    }
}

/// Parses one frame. A command in the wrong kind of frame is unknown: the real server would not read it either.
pub(crate) fn understand(message: &Message) -> Frame {
    let (renderer, bytes) = match message {
        Message::Binary(bytes) => (Renderer::Client, bytes.as_ref()),
        Message::Text(text) => (Renderer::Server, text.as_bytes()),
        Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {
            return Frame::Unknown;
        }
    };
    if renderer == Renderer::Client && bytes.first() == Some(&b'R') {
        return Frame::Call;
    }
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else {
        return Frame::Unknown;
    };
    let Some(command) = json.get("command").and_then(Value::as_str) else {
        return Frame::Unknown;
    };
    match (renderer, command) {
        (Renderer::Client, "OPEN_MODEL") => Frame::Open(Open {
            renderer,
            model: text(&json, "model_name").unwrap_or_default(),
            token: text(&json, "session_token"),
            stream_version: text(&json, "stream_version"),
            network_version: text(&json, "network_version"),
            size: (0, 0),
        }),
        (Renderer::Server, "SERVER_SIDE_RENDER") => Frame::Open(Open {
            renderer,
            model: text(&json, "model").unwrap_or_default(),
            token: text(&json, "sessionToken"),
            stream_version: None,
            network_version: text(&json, "networkVersion"),
            size: size(&json),
        }),
        (Renderer::Server, "SERVER_SIDE_CLIENT_INFO") => Frame::Resize(size(&json)),
        (Renderer::Server, "ACK") => Frame::Acknowledge,
        (Renderer::Client, "CONFIGURE_STREAM" | "SEND_STREAM") | (Renderer::Server, "SERVER_SETTINGS") => {
            Frame::Known(command.to_owned())
        }
        _ => Frame::Unknown,
    }
}

/// Versions come as strings; a number means the same.
fn text(json: &Value, key: &str) -> Option<String> {
    match json.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

/// Zero where it is not said.
fn size(json: &Value) -> (u16, u16) {
    (pixels(json, "width"), pixels(json, "height"))
}

fn pixels(json: &Value, key: &str) -> u16 {
    let pixels = json.get(key).and_then(Value::as_f64).unwrap_or_default();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and the picture is not a real one"
    )]
    let pixels = pixels as u16;
    pixels
}

/// What the answer to a model that is opened says beside it.
const NOTICE: &str = "this is ts3d-sc-sim, which stands in for ts3d_sc_server: it opens no model, and only a server-side viewer gets a picture";

/// The answer to a model that is opened. A server-side viewer begins its session with it.
pub(crate) fn opened(renderer: Renderer, model: &str) -> Message {
    let answer = |command: &str| json!({"command": command, "model_name": model, "simulator": NOTICE});
    match renderer {
        Renderer::Client => Message::text(answer("OPEN_MODEL_SUCCEEDED").to_string()),
        Renderer::Server => {
            let mut event = answer("open_model_succeeded");
            event["event"] = json!("session_started");
            binary(&event)
        }
    }
}

/// The answer to a model that is not opened.
pub(crate) fn refused(renderer: Renderer, refusal: &Refusal) -> Message {
    let mut data = json!({"reason": refusal.reason()});
    if let Refusal::NetworkVersion { expected, actual } | Refusal::StreamVersion { expected, actual } =
        refusal
    {
        data["expected"] = json!(expected);
        data["actual"] = json!(actual);
    }
    let mut answer = data.clone();
    match renderer {
        Renderer::Client => {
            answer["command"] = json!("OPEN_MODEL_FAILED");
            Message::text(answer.to_string())
        }
        Renderer::Server => {
            answer["command"] = json!("open_model_failed");
            answer["event"] = json!("open_model_failed");
            answer["data"] = data;
            binary(&answer)
        }
    }
}

fn binary(json: &Value) -> Message {
    Message::binary(json.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use tungstenite::Message;

    use super::{Frame, Refusal, Renderer, opened, refused, understand};

    #[test]
    fn a_command_counts_only_in_its_own_kind_of_frame() {
        let table = [
            (Message::text(r#"{"command":"OPEN_MODEL"}"#), false),
            (Message::binary(br#"{"command":"OPEN_MODEL"}"#.to_vec()), true),
            (Message::text(r#"{"command":"SERVER_SIDE_RENDER"}"#), true),
            (Message::binary(br#"{"command":"SERVER_SIDE_RENDER"}"#.to_vec()), false),
            (Message::binary(br#"{"command":"SEND_STREAM"}"#.to_vec()), true),
            (Message::text(r#"{"command":"ACK"}"#), true),
            (Message::binary(b"R\x68\0\0\0\0\0".to_vec()), true),
            (Message::text("R"), false),
            (Message::text("{}"), false),
            (Message::text("[1]"), false),
            (Message::binary(vec![0xff, 0xfe]), false),
        ];
        for (message, known) in table {
            assert_eq!(understand(&message) != Frame::Unknown, known, "{message:?}");
        }
    }

    #[test]
    fn a_window_of_a_negative_or_missing_size_has_none() {
        for (frame, size) in [
            (r#"{"command":"SERVER_SIDE_CLIENT_INFO","width":640.5,"height":-1}"#, (640, 0)),
            (r#"{"command":"SERVER_SIDE_CLIENT_INFO","width":1e9}"#, (u16::MAX, 0)),
        ] {
            assert_eq!(understand(&Message::text(frame)), Frame::Resize(size), "{frame}");
        }
    }

    #[test]
    fn a_client_side_viewer_is_answered_in_text_which_it_takes_for_nothing() {
        let refusal = Refusal::Token;
        for (renderer, text) in [(Renderer::Client, true), (Renderer::Server, false)] {
            assert_eq!(opened(renderer, "m").is_text(), text);
            assert_eq!(refused(renderer, &refusal).is_text(), text);
        }
        let event: serde_json::Value =
            serde_json::from_slice(&opened(Renderer::Server, "m").into_data()).unwrap();
        assert_eq!(event["event"], "session_started");
        assert!(event["simulator"].as_str().unwrap().contains("ts3d-sc-sim"), "{event}");
    }

    #[test]
    fn a_refused_version_names_both() {
        let refusal = Refusal::NetworkVersion { expected: "1".to_owned(), actual: "2".to_owned() };
        for renderer in [Renderer::Client, Renderer::Server] {
            let answer = refused(renderer, &refusal).into_data();
            let json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
            for said in [Some(&json), json.get("data")].into_iter().flatten() {
                assert_eq!(said["reason"], "BAD_NETWORK_VERSION");
                assert_eq!((&said["expected"], &said["actual"]), (&"1".into(), &"2".into()));
            }
            assert_eq!(json.get("data").is_some(), renderer == Renderer::Server);
        }
    }
}
