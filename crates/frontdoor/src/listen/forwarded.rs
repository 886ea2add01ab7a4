//! Who a caller is that comes through a load balancer: what the load balancer says of it, if it is one that is believed.
//!
//! It may say so for the connection, before anything else on it (the PROXY protocol of HAProxy, either version), and for a request
//! (`X-Forwarded-For`). Of several load balancers behind each other each adds the one before it, so the list is read from its end, for
//! as long as the proxy that added an entry is believed. Failure: a connection whose PROXY header is broken is closed; a list that cannot be
//! read ends where it cannot.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::http::HeaderMap;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::sleep;

use crate::settings::TrustedProxies;

/// How a header of the first version begins, and of the second (PROXY protocol 2.1 and 2.2).
const FIRST: &[u8] = b"PROXY ";
const SECOND: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of the first version, and what precedes the addresses in the second.
const MAX_FIRST: usize = 107;
const FIXED: usize = 16;
/// The longest part of the second version that is read: addresses, and what a load balancer adds to them.
const MAX_ADDRESSES: usize = 4096;
/// Between two looks at a header that comes in pieces.
const PAUSE: Duration = Duration::from_millis(5);

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Reads the PROXY header of a connection, if there is one. Returns whose connection it is; `None` when it is the load balancer's own.
///
/// # Errors
/// The header is broken.
pub(super) async fn announced(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut buffer = [0; SECOND.len()];
    loop {
        let seen = stream.peek(&mut buffer).await?;
        let seen = &buffer[..seen];
        let may_be = |header: &[u8]| header.starts_with(&seen[..seen.len().min(header.len())]);
        if seen.is_empty() || !(may_be(FIRST) || may_be(SECOND)) {
            return Ok(None);
        }
        if seen.starts_with(FIRST) {
            return first_version(stream).await;
        }
        if seen == SECOND {
            return second_version(stream).await;
        }
        sleep(PAUSE).await;
    }
}

async fn first_version(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut line = Vec::with_capacity(MAX_FIRST);
    while !line.ends_with(b"\n") {
        if line.len() == MAX_FIRST {
            return Err(broken("a line without an end"));
        }
        line.push(stream.read_u8().await?);
    }
    source(&line)
}

async fn second_version(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let mut bytes = vec![0; FIXED];
    stream.read_exact(&mut bytes).await?;
    let length = usize::from(u16::from_be_bytes([bytes[FIXED - 2], bytes[FIXED - 1]]));
    if length > MAX_ADDRESSES {
        return Err(broken("it is too long"));
    }
    bytes.resize(FIXED + length, 0);
    stream.read_exact(&mut bytes[FIXED..]).await?;
    source(&bytes)
}

/// Whom a whole header names as the other end.
fn source(header: &[u8]) -> io::Result<Option<SocketAddr>> {
    let (header, _) = ProxyHeader::parse(header, ParseConfig::default()).map_err(broken)?;
    Ok(header.proxied_address().map(|address| address.source))
}

#[expect(clippy::needless_pass_by_value, reason = "errors are mapped by it")]
fn broken(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

/// Whose request it is that came on a connection of this peer.
pub(super) fn caller(peer: SocketAddr, headers: &HeaderMap, proxies: &TrustedProxies) -> SocketAddr {
    let lists = headers.get_all(FORWARDED_FOR).into_iter().rev();
    // Each entry is read by itself: what a stranger wrote must not hide what a proxy added.
    let mut entries = lists.flat_map(|list| list.as_bytes().rsplit(|byte| *byte == b','));
    let mut caller = peer;
    while proxies.trust(caller.ip()) {
        match entries.next().and_then(address) {
            Some(address) => caller = (address, 0).into(),
            None => break,
        }
    }
    caller
}

/// An address as load balancers write it: with or without a port, in brackets or not.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let entry = std::str::from_utf8(entry).ok()?.trim();
    let bare = entry.strip_prefix('[').and_then(|entry| entry.strip_suffix(']')).unwrap_or(entry);
    bare.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn a_list_is_read_from_its_end_for_as_long_as_its_writer_is_believed() {
        let proxies = TrustedProxies::of(&["10.0.0.0/8", "::1"]);
        for (peer, lists, caller) in [
            ("10.0.0.1:9", &["192.0.2.7"][..], "192.0.2.7:0"),
            ("10.0.0.1:9", &["203.0.113.1, 192.0.2.7"], "192.0.2.7:0"),
            ("10.0.0.1:9", &["203.0.113.1,192.0.2.7 , 10.9.9.9"], "192.0.2.7:0"),
            ("10.0.0.1:9", &["203.0.113.1", "10.2.2.2"], "203.0.113.1:0"),
            ("[::1]:9", &["2001:db8::1"], "[2001:db8::1]:0"),
            ("[::1]:9", &["[2001:db8::1]:443"], "[2001:db8::1]:0"),
            ("[::1]:9", &["[2001:db8::1]"], "[2001:db8::1]:0"),
            ("10.0.0.1:9", &["192.0.2.7:5555"], "192.0.2.7:0"),
            // No proxy named a caller that can be read.
            ("10.0.0.1:9", &[], "10.0.0.1:9"),
            ("10.0.0.1:9", &["unknown"], "10.0.0.1:9"),
            ("10.0.0.1:9", &["192.0.2.7, unknown, 10.3.3.3"], "10.3.3.3:0"),
            // What is no text ends the list, and hides nothing that comes after.
            ("10.0.0.1:9", &["\u{ff}, 198.51.100.7"], "198.51.100.7:0"),
            ("10.0.0.1:9", &["198.51.100.7, \u{ff}"], "10.0.0.1:9"),
            // A stranger says what it likes.
            ("192.0.2.9:9", &["203.0.113.1"], "192.0.2.9:9"),
        ] {
            let mut headers = HeaderMap::new();
            for list in lists {
                headers.append(FORWARDED_FOR, HeaderValue::from_bytes(list.as_bytes()).unwrap());
            }
            let found = super::caller(peer.parse().unwrap(), &headers, &proxies);
            assert_eq!(found, caller.parse().unwrap(), "{peer} {lists:?}");
        }
    }

    /// What is found of these bytes, which come in two pieces, and what is left of them.
    async fn read(bytes: &[u8], cut: usize) -> (io::Result<Option<SocketAddr>>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut sender = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        sender.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let (first, second) = bytes.split_at(cut.min(bytes.len()));
        sender.write_all(first).await.unwrap();
        let second = second.to_vec();
        let send = async move {
            sender.write_all(&second).await.unwrap();
        };
        let (found, ()) = tokio::join!(announced(&mut stream), send);
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        (found, rest)
    }

    #[tokio::test]
    async fn a_connection_is_whose_the_proxy_header_says() {
        let second = |command: u8, family: u8, addresses: &[u8]| {
            let length = u16::try_from(addresses.len()).unwrap().to_be_bytes();
            [SECOND, &[0x20 | command, family], &length, addresses].concat()
        };
        let four = [192, 0, 2, 7, 10, 0, 0, 1, 0x15, 0xb3, 0, 80];
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 1, 7, 9);
        let with_more = [&four[..], &[4, 0, 1, 0]].concat();
        for (bytes, wanted) in [
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 5555 80\r\n".to_vec(), Some("192.0.2.7:5555")),
            (b"PROXY TCP6 2001:db8::1 ::1 5555 80\r\n".to_vec(), Some("[2001:db8::1]:5555")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (second(1, 0x11, &four), Some("192.0.2.7:5555")),
            (second(1, 0x11, &with_more), Some("192.0.2.7:5555")),
            (second(1, 0x21, &six), Some("[2001::7]:9")),
            // The load balancer's own, to see whether the port answers.
            (second(0, 0, &[]), None),
        ] {
            for cut in [1, 5, 13, 30, bytes.len()] {
                let (found, rest) = read(&[&bytes[..], b"GET / HTTP/1.1\r\n"].concat(), cut).await;
                assert_eq!(found.unwrap(), wanted.map(|text| text.parse().unwrap()), "{bytes:?}");
                assert_eq!(rest, b"GET / HTTP/1.1\r\n", "{bytes:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_connection_without_a_proxy_header_is_left_as_it_is() {
        for bytes in
            [&b"POST /spawn HTTP/1.1\r\n"[..], b"PROPFIND / HTTP/1.1\r\n", b"\x16\x03\x01", b"\r\nGET", b""]
        {
            for cut in [1, 4] {
                let (found, rest) = read(bytes, cut).await;
                assert_eq!((found.unwrap(), &rest[..]), (None, bytes));
            }
        }
    }

    #[tokio::test]
    async fn a_broken_proxy_header_is_an_error() {
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        let huge = [SECOND, &[0x21, 0x11, 0xff, 0xff]].concat();
        for bytes in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 5555\r\n"[..],
            b"PROXY TCP4 192.0.2.777 10.0.0.1 5555 80\r\n",
            b"PROXY TCP4 192.0.2.7",
            &long,
            &huge,
            &[SECOND, &[0x91, 0x11, 0, 0]].concat(),
            &[SECOND, &[0x21, 0x11, 0, 4, 1, 2, 3, 4]].concat(),
        ] {
            assert!(read(bytes, bytes.len()).await.0.is_err(), "{bytes:?}");
        }
    }
}
