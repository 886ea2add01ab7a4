//! A relay in front and one behind it, on the server's node.

use super::*;

struct Chain {
    viewer: DuplexStream,
    server: DuplexStream,
    front: JoinHandle<(Ended, u64, u64, u64)>,
    behind: JoinHandle<(Ended, u64, u64, u64)>,
}

fn chain(room: usize) -> Chain {
    let tag = PingTag::mint();
    let (viewer, near_viewer) = duplex(room);
    let (near_behind, near_front) = duplex(room);
    let (server, near_server) = duplex(room);
    let cut = CancellationToken::new();
    let front = start(near_viewer, near_behind, Hop::InFront(tag), cut.clone());
    let behind = start(near_front, near_server, Hop::Behind(tag), cut);
    Chain { viewer, server, front, behind }
}

/// One of two relays; the connection to the other one is the test's.
fn one(hop: fn(PingTag) -> Hop) -> World {
    let (viewer, near_viewer) = duplex(1 << 16);
    let (server, near_server) = duplex(1 << 16);
    let cut = CancellationToken::new();
    let relay = start(near_viewer, near_server, hop(PingTag::mint()), cut.clone());
    World { viewer, server, cut, relay }
}

#[tokio::test(start_paused = true)]
async fn an_idle_viewer_behind_two_relays_is_pinged_once_an_interval_and_stays() {
    let mut chain = chain(1 << 16);
    let began = Instant::now();
    for _ in 0..100 {
        let payload = ping(&mut chain.viewer).await;
        chain.viewer.write_all(&frame(0xa, MASK, &payload)).await.unwrap();
    }
    assert_eq!(began.elapsed().as_secs(), INTERVAL.as_secs() * 100);
    let (last, answer) = (frame(2, MASK, b"after an hour"), frame(2, None, b"so it is"));
    chain.viewer.write_all(&last).await.unwrap();
    exactly(&mut chain.server, &last).await;
    chain.server.write_all(&answer).await.unwrap();
    exactly(&mut chain.viewer, &answer).await;
    drop(chain.viewer);
    let (ended, _, down, frames) = chain.front.await.unwrap();
    assert_eq!((ended.by, down, frames), (EndedBy::Viewer, 10, 1));
    let (ended, up, down, frames) = chain.behind.await.unwrap();
    assert_eq!((ended.by, up, down, frames), (EndedBy::Viewer, 19, 10, 1), "the server heard no answer");
}

#[tokio::test(start_paused = true)]
async fn pings_of_the_server_and_their_answers_pass_two_relays() {
    let mut chain = chain(1 << 16);
    let (ping, answer) = (frame(9, None, b"server's"), frame(0xa, MASK, b"server's"));
    chain.server.write_all(&ping).await.unwrap();
    exactly(&mut chain.viewer, &ping).await;
    chain.viewer.write_all(&answer).await.unwrap();
    exactly(&mut chain.server, &answer).await;
}

#[tokio::test(start_paused = true)]
async fn a_viewer_that_vanishes_behind_two_relays_is_noticed_within_two_intervals() {
    let mut chain = chain(1 << 16);
    let payload = ping(&mut chain.viewer).await;
    chain.viewer.write_all(&frame(0xa, MASK, &payload)).await.unwrap();
    let began = Instant::now();
    assert_eq!(chain.server.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() <= INTERVAL * 2, "{:?}", began.elapsed());
    assert_eq!(chain.front.await.unwrap().0.by, EndedBy::Vanished);
}

#[tokio::test(start_paused = true)]
async fn a_relay_in_front_that_vanishes_is_noticed_by_the_one_behind() {
    let mut world = one(Hop::Behind);
    let began = Instant::now();
    assert_eq!(world.server.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() <= INTERVAL * 4, "{:?}", began.elapsed());
    assert_eq!(world.relay.await.unwrap().0.by, EndedBy::Vanished);
}

#[tokio::test(start_paused = true)]
async fn a_relay_behind_that_vanishes_is_noticed_by_the_one_in_front() {
    let mut world = one(Hop::InFront);
    let began = Instant::now();
    let mut pings = 0;
    loop {
        let mut ping = [0; 10];
        if world.viewer.read_exact(&mut ping).await.is_err() {
            break;
        }
        world.viewer.write_all(&frame(0xa, MASK, &ping[2..])).await.ok();
        pings += 1;
    }
    assert!(pings >= 2, "{pings}");
    assert!(began.elapsed() <= INTERVAL * 4, "{:?}", began.elapsed());
    let (ended, ..) = world.relay.await.unwrap();
    assert_eq!(ended.by, EndedBy::Server);
    assert_eq!(ended.error.unwrap().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn one_huge_frame_to_a_slow_viewer_is_no_silence_to_the_relay_behind() {
    let mut chain = chain(1 << 10);
    let whole = frame(2, None, &vec![7; 1 << 20]);
    let server = tokio::spawn({
        let whole = whole.clone();
        async move {
            chain.server.write_all(&whole).await.unwrap();
            chain.server
        }
    });
    let (mut read, mut piece) = (Vec::new(), [0; 1 << 14]);
    while read.len() < whole.len() {
        tokio::time::sleep(INTERVAL).await;
        let count = chain.viewer.read(&mut piece).await.unwrap();
        assert!(count > 0, "cut after {}", read.len());
        read.extend_from_slice(&piece[..count]);
    }
    server.await.unwrap();
    assert_eq!(read[..whole.len()], whole);
}

#[tokio::test(start_paused = true)]
async fn a_slow_server_behind_two_relays_ends_nothing() {
    let mut chain = chain(1 << 8);
    // The server reads nothing, so neither relay can read what the viewer sends.
    let long = frame(2, MASK, &[5; 2000]);
    timeout(INTERVAL * 10, chain.viewer.write_all(&long)).await.unwrap_err();
    assert!(!chain.front.is_finished() && !chain.behind.is_finished());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn two_relays_lose_add_and_reorder_nothing(
        sent in proptest::collection::vec((1usize..3000, any::<u8>(), any::<bool>()), 1..20),
        room in 1usize..4096,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut chain = chain(room);
            let up: Vec<u8> = sent.iter().flat_map(|(size, byte, compressed)| message(2, MASK, *compressed, &vec![*byte; *size])).collect();
            // Pings of the server among its data.
            let down = sent.iter().flat_map(|(size, byte, compressed)| match byte & 1 {
                0 => message(1, None, *compressed, &vec![*byte; *size]),
                _ => frame(9, None, &vec![*byte; *size % 126]),
            });
            let down: Vec<u8> = down.collect();
            passes_as_it_came(&mut chain.viewer, &mut chain.server, &up, &down).await
        })?;
    }
}
