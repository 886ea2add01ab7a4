//! The vendor's viewer as far as the wire shows it: handshakes and first frames, in kind and size.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::farm::Farm;
use crate::wait::{Look, TIMEOUT, until};

/// A viewer connected to a spawn.
#[derive(Debug)]
pub struct Viewer {
    socket: WebSocketStream<TcpStream>,
    /// The answer to its handshake.
    pub response: Response,
}

impl Viewer {
    /// Client-side rendering: no subprotocol is offered.
    pub async fn client_side(endpoint: &str) -> Self {
        Self::connect(endpoint, None).await.unwrap_or_else(|error| panic!("{endpoint}: {error}"))
    }

    /// Server-side rendering: the subprotocol `binary` is offered.
    pub async fn server_side(endpoint: &str) -> Self {
        Self::connect(endpoint, Some("binary")).await.unwrap_or_else(|error| panic!("{endpoint}: {error}"))
    }

    /// Client-side rendering, once the spawn takes a viewer.
    pub async fn connected(endpoint: &str) -> Self {
        until("the spawn takes a viewer", TIMEOUT, async || match Self::connect(endpoint, None).await {
            Ok(viewer) => Look::Ready(viewer),
            Err(error) => Look::NotYet(error.to_string()),
        })
        .await
    }

    /// A handshake as a browser makes it.
    ///
    /// # Errors
    /// Nobody listens there, or the handshake is refused.
    pub async fn connect(endpoint: &str, protocol: Option<&'static str>) -> Result<Self, Error> {
        let mut request = endpoint.into_client_request()?;
        let authority = request.uri().authority().expect("an endpoint names a host").to_string();
        let headers = request.headers_mut();
        headers.insert("Origin", HeaderValue::from_static("http://app.example"));
        let extensions = HeaderValue::from_static("permessage-deflate; client_max_window_bits");
        headers.insert("Sec-WebSocket-Extensions", extensions);
        if let Some(protocol) = protocol {
            headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(protocol));
        }
        let stream = TcpStream::connect(authority).await?;
        let shaken =
            timeout(TIMEOUT, client_async(request, stream)).await.expect("a handshake does not hang");
        let (socket, response) = shaken?;
        Ok(Self { socket, response })
    }

    /// The subprotocol that was echoed.
    pub fn protocol(&self) -> Option<&str> {
        self.response.headers().get("Sec-WebSocket-Protocol")?.to_str().ok()
    }

    /// The first three frames of client-side rendering: binary, 125 bytes with a token of seven characters, 345 and 129.
    pub async fn open_model(&mut self, token: &str) {
        let open = format!(
            r#"{{"command":"OPEN_MODEL","model_name":"_empty","stream_version":"76","network_version":"1234567890","session_token":"{token}"}}"#
        );
        assert_eq!(open.len(), 118 + token.len());
        self.send(Message::binary(open.into_bytes())).await;
        self.send(Message::binary(padded("CONFIGURE_STREAM", 345))).await;
        self.send(Message::binary(padded("SEND_STREAM", 129))).await;
    }

    /// Opens a model, and returns the command of the answer; `None` when the server is going or gone.
    pub async fn try_open_model(&mut self, token: &str) -> Option<String> {
        let open = json!({
            "command": "OPEN_MODEL", "model_name": "_empty", "stream_version": "76", "network_version": "1234567890",
            "session_token": token,
        });
        self.socket.send(Message::binary(open.to_string().into_bytes())).await.ok()?;
        loop {
            match timeout(TIMEOUT, self.socket.next()).await.expect("an answer, or the end") {
                Some(Ok(data @ (Message::Binary(_) | Message::Text(_)))) => {
                    let answer: Value = serde_json::from_slice(&data.into_data()).ok()?;
                    return answer["command"].as_str().map(str::to_owned);
                }
                Some(Ok(Message::Ping(_))) => {}
                _ => return None,
            }
        }
    }

    /// The first frames of server-side rendering: text, 492 bytes with a token of seven characters, 467 without one.
    pub async fn render(&mut self, token: Option<&str>) {
        let mut first = json!({
            "command": "SERVER_SIDE_RENDER", "width": 800, "height": 600, "layoutWidth": 800, "layoutHeight": 600,
            "model": "_empty", "networkVersion": "1234567890", "settings": "",
        });
        let missing = 467 - first.to_string().len();
        first["settings"] = json!("s".repeat(missing));
        if let Some(token) = token {
            first["sessionToken"] = json!(token);
        }
        let size = first.to_string().len();
        assert_eq!(size, token.map_or(467, |token| 467 + 18 + token.len()));
        self.send(Message::text(first.to_string())).await;
        let client = json!({"command": "SERVER_SIDE_CLIENT_INFO", "encoding": "jpeg"});
        self.send(Message::text(client.to_string())).await;
        self.send(Message::text(json!({"command": "SERVER_SETTINGS"}).to_string())).await;
    }

    /// Sends one frame.
    pub async fn send(&mut self, message: Message) {
        self.socket.send(message).await.expect("the server listens");
    }

    /// The next frame, which must be a binary one.
    pub async fn receive(&mut self) -> Vec<u8> {
        match self.next().await {
            Message::Binary(bytes) => bytes.to_vec(),
            other => panic!("a binary frame was expected, not {other:?}"),
        }
    }

    /// The next frame with data.
    async fn next(&mut self) -> Message {
        loop {
            let frame = timeout(TIMEOUT, self.socket.next()).await.expect("an answer in time");
            match frame {
                Some(Ok(data @ (Message::Binary(_) | Message::Text(_)))) => return data,
                // Answered by the library, as browsers do.
                Some(Ok(Message::Ping(_))) => {}
                other => panic!("a frame with data was expected, not {other:?}"),
            }
        }
    }

    /// The next frame as JSON; a client-side viewer is answered in text.
    pub async fn receive_json(&mut self) -> Value {
        serde_json::from_slice(&self.next().await.into_data()).expect("JSON")
    }

    /// The JPEG in the next frame, which must be a picture: eight bytes, the text about it whose length the last four of them
    /// are, and the JPEG. Acknowledged, so that another one comes.
    pub async fn receive_picture(&mut self) -> Vec<u8> {
        let frame = self.receive().await;
        assert_eq!(frame[0], 0, "a picture");
        let length = u32::from_be_bytes(frame[4..8].try_into().expect("four bytes"));
        let (about, jpeg) = frame[8..].split_at(usize::try_from(length).expect("a length"));
        serde_json::from_slice::<Value>(about).expect("what the vendor's viewer parses");
        self.send(Message::text(json!({"command": "ACK"}).to_string())).await;
        jpeg.to_vec()
    }

    /// Reads on until the server has sent a close frame or gone.
    pub async fn closed(&mut self) {
        let read_on = async { while let Some(Ok(_)) = self.socket.next().await {} };
        timeout(TIMEOUT, read_on).await.expect("the server ends the connection");
    }

    /// Says something, so that the server counts as used; nobody may be listening any more.
    pub async fn greet(&mut self) {
        self.socket.send(Message::binary(padded("CONFIGURE_STREAM", 345))).await.ok();
    }

    /// Whether the server has sent a close frame or gone by now.
    pub async fn is_closed(&mut self) -> bool {
        self.is_closed_within(Duration::from_millis(20)).await
    }

    /// Reads for so long, which answers pings; whether the server has sent a close frame or gone meanwhile.
    pub async fn is_closed_within(&mut self, time: Duration) -> bool {
        let read_on = async { while let Some(Ok(_)) = self.socket.next().await {} };
        timeout(time, read_on).await.is_ok()
    }

    /// Opens a model, which the server answers: it is still there for this viewer.
    ///
    /// # Panics
    /// It is not.
    pub async fn still_watches(&mut self) {
        self.open_model("").await;
        assert_eq!(self.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    }

    /// Closes as a page does.
    pub async fn leave(mut self) {
        self.socket.close(None).await.expect("the server listens");
        self.closed().await;
    }
}

impl Farm {
    /// A spawn with a viewer that looks at a model, by the first front door: its id and the viewer.
    pub async fn watched(&self) -> (String, Viewer) {
        let answer = self.door(0).spawned(&json!({})).await;
        Self::watches(&answer).await
    }

    /// The same on this node: spawns on others are stopped again.
    pub async fn watched_on(&self, node: &str) -> (String, Viewer) {
        loop {
            let answer = self.door(0).spawned(&json!({})).await;
            if answer["node"] == node {
                return Self::watches(&answer).await;
            }
            self.stop([answer["id"].as_str().expect("the contract has it")]).await;
        }
    }

    /// A viewer of the spawn in this answer: its id and the viewer.
    pub async fn watches(answer: &Value) -> (String, Viewer) {
        let text = |member: &str| answer[member].as_str().expect("the contract has it");
        let mut viewer = Viewer::client_side(text("endpoint")).await;
        viewer.still_watches().await;
        (text("id").to_owned(), viewer)
    }
}

/// A command in a frame of this many bytes.
fn padded(command: &str, size: usize) -> Vec<u8> {
    let bare = json!({"command": command, "padding": ""}).to_string().len();
    json!({"command": command, "padding": "p".repeat(size - bare)}).to_string().into_bytes()
}
