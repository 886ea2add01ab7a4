//! The vendor's viewer as far as the wire shows it: handshakes and first frames of the published builds.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::http::HeaderValue;
use tungstenite::{Message, WebSocket};

use crate::process::Sim;
use crate::seen::TIMEOUT;

pub(crate) struct Viewer {
    websocket: WebSocket<TcpStream>,
    pub(crate) response: Response,
}

impl Viewer {
    /// Offers no subprotocol, as a client-side viewer does.
    pub(crate) fn client_side(sim: &Sim) -> Self {
        Self::connect(sim, "/any/path?and=query", None).expect("a handshake")
    }

    pub(crate) fn server_side(sim: &Sim) -> Self {
        Self::connect(sim, "/", Some("binary")).expect("a handshake")
    }

    pub(crate) fn connect(sim: &Sim, path: &str, protocol: Option<&str>) -> Result<Self, String> {
        let stream = sim.connect();
        stream.set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        let mut request =
            format!("ws://127.0.0.1:{}{path}", sim.port).into_client_request().expect("a good URL");
        let headers = request.headers_mut();
        headers.insert(
            "Sec-WebSocket-Extensions",
            HeaderValue::from_static("permessage-deflate; client_max_window_bits"),
        );
        if let Some(protocol) = protocol {
            let protocol = HeaderValue::from_str(protocol).expect("a good header");
            headers.insert("Sec-WebSocket-Protocol", protocol);
        }
        let (websocket, response) =
            tungstenite::client(request, stream).map_err(|error| error.to_string())?;
        Ok(Self { websocket, response })
    }

    pub(crate) fn protocol(&self) -> Option<&str> {
        let header = self.response.headers().get("Sec-WebSocket-Protocol")?;
        header.to_str().ok()
    }

    pub(crate) fn send(&mut self, message: Message) {
        self.websocket.send(message).expect("the server listens");
    }

    /// As a client-side viewer begins; without a token it sends an empty one.
    pub(crate) fn open_model(&mut self, token: &str) {
        self.send(binary(&json!({
            "command": "OPEN_MODEL", "model_name": "_empty", "stream_version": "76",
            "network_version": "1234567890", "session_token": token,
        })));
        self.send(binary(&json!({"command": "CONFIGURE_STREAM"})));
        self.send(binary(&json!({"command": "SEND_STREAM"})));
    }

    /// As a server-side viewer begins; without a token it leaves the key out.
    pub(crate) fn render(&mut self, token: Option<&str>) {
        let mut first = json!({
            "command": "SERVER_SIDE_RENDER", "width": 800, "height": 600, "layoutWidth": 800,
            "layoutHeight": 600, "model": "_empty", "networkVersion": "1234567890",
        });
        if let Some(token) = token {
            first["sessionToken"] = json!(token);
        }
        self.send(Message::text(first.to_string()));
        let client =
            json!({"command": "SERVER_SIDE_CLIENT_INFO", "width": 800, "height": 600, "encoding": "jpeg"});
        self.send(Message::text(client.to_string()));
        self.send(Message::text(json!({"command": "SERVER_SETTINGS"}).to_string()));
    }

    pub(crate) fn receives(&mut self) -> Vec<u8> {
        match self.websocket.read().expect("an answer") {
            Message::Binary(bytes) => bytes.to_vec(),
            other => panic!("{other:?} is not a binary frame"),
        }
    }

    /// The next frame of either kind: a client-side viewer is answered in text.
    pub(crate) fn receives_json(&mut self) -> Value {
        let frame = self.websocket.read().expect("an answer");
        serde_json::from_slice(&frame.into_data()).expect("JSON")
    }

    /// The JPEG in the next frame, which must be a picture with the JSON text that the vendor's viewer parses before it.
    pub(crate) fn receives_picture(&mut self) -> Vec<u8> {
        let frame = self.receives();
        assert_eq!(frame[..4], [0, 0, 0, 0], "a picture of which nothing is cut off");
        let length = u32::from_be_bytes(frame[4..8].try_into().expect("four bytes"));
        let (about, jpeg) = frame[8..].split_at(usize::try_from(length).expect("a length"));
        let about: Value = serde_json::from_slice(about).expect("JSON");
        assert_eq!(about["draw_index"], 0, "{about}");
        jpeg.to_vec()
    }

    /// Says that a picture has arrived.
    pub(crate) fn acknowledges(&mut self) {
        self.send(Message::text(json!({"command": "ACK"}).to_string()));
    }

    /// Whether no frame comes for so long.
    pub(crate) fn hears_nothing_for(&mut self, time: Duration) -> bool {
        self.stream().set_read_timeout(Some(time)).expect("a timeout can be set");
        let heard = self.websocket.read();
        self.stream().set_read_timeout(Some(TIMEOUT)).expect("a timeout can be set");
        matches!(heard, Err(tungstenite::Error::Io(error)) if is_timeout(&error))
    }

    /// Reads on until the server has sent a close frame.
    pub(crate) fn is_closed(&mut self) {
        loop {
            match self.websocket.read() {
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if is_timeout(&error) => {
                    panic!("the server keeps the connection open")
                }
                Err(_) => return,
            }
        }
    }

    /// Closes as a page does: a close frame, and then the connection.
    pub(crate) fn leaves(mut self) {
        self.websocket.close(None).expect("the server listens");
        self.is_closed();
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        self.websocket.get_ref()
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn binary(json: &Value) -> Message {
    Message::binary(json.to_string().into_bytes())
}

/// A connection's last bytes, up to its end.
pub(crate) fn rest(mut stream: &TcpStream) -> String {
    use std::io::Read;
    let mut rest = Vec::new();
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout can be set");
    // A reset is an end too.
    stream.read_to_end(&mut rest).ok();
    String::from_utf8_lossy(&rest).into_owned()
}
