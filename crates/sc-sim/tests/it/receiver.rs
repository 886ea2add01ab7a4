//! The other end of liveliness: a receiver that answers as told and remembers what came.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crate::seen::Seen;

/// One post.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// Method, path and query.
    pub(crate) target: String,
    pub(crate) content_length: Option<String>,
    /// Counts connections from zero.
    pub(crate) connection: usize,
    pub(crate) at: Instant,
    /// Whether the watched port still took connections when the post came.
    pub(crate) port_open: bool,
}

/// What a receiver does with a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// 200, and the connection stays open.
    Keep,
    /// 200 as if the connection stayed open, and then closes it.
    Drop,
    /// 404 with a body, and the connection stays open.
    NotFound,
    /// Nothing.
    Hang,
}

/// A running receiver; its thread lives as long as the test process.
pub(crate) struct Receiver {
    port: u16,
    pub(crate) posts: Seen<Post>,
}

impl Receiver {
    pub(crate) fn new(manner: Manner) -> Self {
        Self::watching(manner, None)
    }

    /// Looks at a port at each post, before answering it.
    pub(crate) fn watching(manner: Manner, watched: Option<u16>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let posts = Seen::new();
        let seen = posts.clone();
        thread::spawn(move || {
            let seen = Arc::new(seen);
            for (connection, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || {
                    serve(&stream, connection, manner, watched, &seen);
                });
            }
        });
        Self { port, posts }
    }

    pub(crate) fn url(&self, base: &str) -> String {
        format!("http://127.0.0.1:{}{base}", self.port)
    }

    pub(crate) fn gets(&self, liveliness: &str) -> Post {
        let ending = format!("?liveliness={liveliness}");
        self.posts.wait_for(&ending, |post| post.target.ends_with(&ending))
    }

    pub(crate) fn gets_one_after(&self, time: Instant) {
        self.posts.wait_for("a post after that time", |post| post.at >= time);
    }

    pub(crate) fn targets(&self) -> Vec<String> {
        let all = self.posts.all();
        all.into_iter().map(|post| post.target).collect()
    }
}

fn serve(
    mut stream: &TcpStream,
    connection: usize,
    manner: Manner,
    watched: Option<u16>,
    posts: &Seen<Post>,
) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(first) = lines.next() {
        let mut content_length = None;
        for line in lines.by_ref().take_while(|line| !line.is_empty()) {
            if let Some(length) = line.strip_prefix("Content-Length: ") {
                content_length = Some(length.to_owned());
            }
        }
        posts.push(Post {
            target: first.trim_end_matches(" HTTP/1.1").to_owned(),
            content_length,
            connection,
            at: Instant::now(),
            port_open: watched.is_some_and(|port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()),
        });
        let answer: &[u8] = match manner {
            Manner::Keep | Manner::Drop => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            Manner::NotFound => b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
            Manner::Hang => continue,
        };
        if stream.write_all(answer).is_err() || manner == Manner::Drop {
            return;
        }
    }
}
