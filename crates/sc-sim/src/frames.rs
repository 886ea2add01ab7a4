//! The frames of a viewer and their answers: a small part of the vendor's protocol, as observed from its published viewer
//! (7.4 to 25.1).
//!
//! A client-side viewer speaks JSON in binary frames (`OPEN_MODEL`, `CONFIGURE_STREAM`, `SEND_STREAM`); a server-side
//! viewer speaks JSON in text frames (`SERVER_SIDE_RENDER`, `SERVER_SIDE_CLIENT_INFO`, `SERVER_SETTINGS`, `ACK`). All
//! answers are binary. What a server-side viewer receives is told apart by its first byte: `{` is a JSON event, 0 a
//! JPEG picture after eight bytes of header.

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
    /// A command that needs no answer here.
    Known(String),
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
            size: (pixels(&json, "width"), pixels(&json, "height")),
        }),
        (Renderer::Client, "CONFIGURE_STREAM" | "SEND_STREAM")
        | (Renderer::Server, "SERVER_SIDE_CLIENT_INFO" | "SERVER_SETTINGS" | "ACK") => {
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

/// The answers to a model that is opened: one event, and for a server-side viewer its first picture.
pub(crate) fn opened(open: &Open, model: &str) -> Vec<Message> {
    match open.renderer {
        Renderer::Client => vec![event(&json!({"command": "OPEN_MODEL_SUCCEEDED", "model_name": model}))],
        Renderer::Server => {
            vec![event(&json!({"command": "open_model_succeeded", "model_name": model})), picture(open.size)]
        }
    }
}

/// The answer to a model that is not opened.
pub(crate) fn refused(renderer: Renderer, refusal: &Refusal) -> Message {
    let command = match renderer {
        Renderer::Client => "OPEN_MODEL_FAILED",
        Renderer::Server => "open_model_failed",
    };
    let mut answer = json!({"command": command, "reason": refusal.reason()});
    if let Refusal::NetworkVersion { expected, actual } | Refusal::StreamVersion { expected, actual } =
        refusal
    {
        answer["expected"] = json!(expected);
        answer["actual"] = json!(actual);
    }
    event(&answer)
}

fn event(json: &Value) -> Message {
    Message::binary(json.to_string().into_bytes())
}

/// Eight bytes of header (a zero, then the size where a test can see it) and the smallest thing that calls itself JPEG.
fn picture((width, height): (u16, u16)) -> Message {
    let mut bytes = vec![0, 0, 0, 0];
    bytes.extend_from_slice(&width.to_be_bytes());
    bytes.extend_from_slice(&height.to_be_bytes());
    bytes.extend_from_slice(&[0xff, 0xd8, 0xff, 0xd9]);
    Message::binary(bytes)
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
            (Message::text("{}"), false),
            (Message::text("[1]"), false),
            (Message::binary(vec![0xff, 0xfe]), false),
        ];
        for (message, known) in table {
            assert_eq!(understand(&message) != Frame::Unknown, known, "{message:?}");
        }
    }

    #[test]
    fn a_picture_begins_with_a_zero_and_an_event_with_a_brace() {
        let first = Message::text(r#"{"command":"SERVER_SIDE_RENDER","width":640,"height":-1,"model":"m"}"#);
        let Frame::Open(open) = understand(&first) else {
            panic!("not understood");
        };
        let answers: Vec<_> = opened(&open, "m").into_iter().map(Message::into_data).collect();
        assert_eq!(answers[0][0], 0x7b);
        assert_eq!(answers[1][..8], [0, 0, 0, 0, 2, 128, 0, 0]);
    }

    #[test]
    fn a_refused_version_names_both() {
        let refusal = Refusal::NetworkVersion { expected: "1".to_owned(), actual: "2".to_owned() };
        let answer = refused(Renderer::Client, &refusal).into_data();
        let json: serde_json::Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(json["reason"], "BAD_NETWORK_VERSION");
        assert_eq!((&json["expected"], &json["actual"]), (&"1".into(), &"2".into()));
    }
}
