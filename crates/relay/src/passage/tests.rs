//! Both ends are in memory, and time is the test's.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::*;
use crate::frames::tests::frame;

mod two_relays;

const INTERVAL: Duration = Duration::from_secs(30);
const MASK: Option<[u8; 4]> = Some([1, 2, 3, 4]);
/// The reserved bit that marks a compressed message (RFC 7692, 7.2.3.1); `frame` puts it beside the opcode.
const COMPRESSED: u8 = 0x40;

struct World {
    viewer: DuplexStream,
    server: DuplexStream,
    cut: CancellationToken,
    relay: JoinHandle<(Ended, u64, u64, u64)>,
}

/// `room` is what each connection takes before it is read.
fn world(room: usize) -> World {
    let (viewer, near_viewer) = duplex(room);
    let (server, near_server) = duplex(room);
    let cut = CancellationToken::new();
    let relay = start(near_viewer, near_server, Hop::Alone, cut.clone());
    World { viewer, server, cut, relay }
}

fn start(
    viewer: DuplexStream,
    server: DuplexStream,
    hop: Hop,
    cut: CancellationToken,
) -> JoinHandle<(Ended, u64, u64, u64)> {
    tokio::spawn(async move {
        let passed = Passed::default();
        let settings = Settings { ping_interval: INTERVAL, hop };
        let ended = relay(viewer, server, settings, &passed, &cut).await;
        (ended, passed.up(), passed.down(), passed.frames())
    })
}

/// Reads one ping, and gives its payload.
async fn ping(viewer: &mut DuplexStream) -> Vec<u8> {
    let mut ping = [0; 10];
    viewer.read_exact(&mut ping).await.unwrap();
    assert_eq!(ping[..2], [0x89, 8]);
    ping[2..].to_vec()
}

/// What the viewer sends arrives at the server, and the other way, all of it and nothing else.
async fn passes_as_it_came(
    viewer: &mut DuplexStream,
    server: &mut DuplexStream,
    up: &[u8],
    down: &[u8],
) -> Result<(), TestCaseError> {
    let (mut from_viewer, mut to_viewer) = split(viewer);
    let (mut from_server, mut to_server) = split(server);
    let (mut got_up, mut got_down) = (vec![0; up.len()], vec![0; down.len()]);
    let all = tokio::try_join!(
        to_viewer.write_all(up),
        to_server.write_all(down),
        async { from_server.read_exact(&mut got_up).await.map(|_| ()) },
        async { from_viewer.read_exact(&mut got_down).await.map(|_| ()) },
    );
    all.unwrap();
    prop_assert_eq!(got_up, up);
    prop_assert_eq!(got_down, down);
    Ok(())
}

/// A message in one frame, said to be compressed or not: the relay passes either on and reads neither.
fn message(opcode: u8, mask: Option<[u8; 4]>, compressed: bool, payload: &[u8]) -> Vec<u8> {
    frame(if compressed { opcode | COMPRESSED } else { opcode }, mask, payload)
}

async fn exactly(stream: &mut DuplexStream, wanted: &[u8]) {
    let mut read = vec![0; wanted.len()];
    stream.read_exact(&mut read).await.unwrap();
    assert_eq!(read, wanted);
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_and_an_end_is_passed_on() {
    let mut world = world(1 << 16);
    let (up, down) = (frame(2, MASK, b"up"), frame(2, None, b"down"));
    world.viewer.write_all(&up).await.unwrap();
    exactly(&mut world.server, &up).await;
    world.server.write_all(&down).await.unwrap();
    exactly(&mut world.viewer, &down).await;
    world.server.shutdown().await.unwrap();
    assert_eq!(world.viewer.read(&mut [0]).await.unwrap(), 0);
    drop(world.viewer);
    let (ended, sent, received, frames) = world.relay.await.unwrap();
    assert_eq!((ended.by, ended.error.is_none()), (EndedBy::Server, true));
    assert_eq!((sent, received, frames), (8, 6, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_last_reaches_a_viewer_that_has_said_all() {
    let mut world = world(1 << 16);
    world.viewer.shutdown().await.unwrap();
    assert_eq!(world.server.read(&mut [0]).await.unwrap(), 0);
    let last = frame(8, None, &[3, 232]);
    world.server.write_all(&last).await.unwrap();
    exactly(&mut world.viewer, &last).await;
    drop(world.server);
    let (ended, ..) = world.relay.await.unwrap();
    assert_eq!(ended.by, EndedBy::Viewer);
}

#[tokio::test(start_paused = true)]
async fn an_idle_viewer_that_answers_pings_stays_and_the_server_hears_nothing_of_it() {
    let mut world = world(1 << 16);
    for _ in 0..100 {
        let payload = ping(&mut world.viewer).await;
        world.viewer.write_all(&frame(0xa, MASK, &payload)).await.unwrap();
    }
    let last = frame(2, MASK, b"after an hour");
    world.viewer.write_all(&last).await.unwrap();
    exactly(&mut world.server, &last).await;
    drop(world.viewer);
    let (ended, up, down, frames) = world.relay.await.unwrap();
    assert_eq!((ended.by, up, down, frames), (EndedBy::Viewer, 19, 0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_viewer_that_vanishes_is_noticed_within_two_intervals() {
    let mut world = world(1 << 16);
    let payload = ping(&mut world.viewer).await;
    world.viewer.write_all(&frame(0xa, MASK, &payload)).await.unwrap();
    let began = Instant::now();
    assert_eq!(world.server.read(&mut [0]).await.unwrap(), 0);
    assert!(began.elapsed() <= INTERVAL * 2, "{:?}", began.elapsed());
    assert_eq!(world.relay.await.unwrap().0.by, EndedBy::Vanished);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_on_sending_does_not_keep_a_vanished_viewer() {
    let mut world = world(1 << 10);
    let began = Instant::now();
    // Nothing is read: once the connection is full, nothing gets through any more.
    while world.server.write_all(&frame(2, None, &[0; 100])).await.is_ok() {}
    assert!(began.elapsed() <= INTERVAL * 3, "{:?}", began.elapsed());
    assert_eq!(world.relay.await.unwrap().0.by, EndedBy::Vanished);
}

#[tokio::test(start_paused = true)]
async fn a_slow_viewer_is_no_vanished_one_and_slows_its_server_down() {
    let mut world = world(1 << 10);
    let whole = frame(2, None, &vec![7; 1 << 20]);
    let taken = Arc::new(AtomicUsize::new(0));
    let server = tokio::spawn({
        let (whole, taken) = (whole.clone(), Arc::clone(&taken));
        async move {
            for piece in whole.chunks(100) {
                world.server.write_all(piece).await.unwrap();
                taken.fetch_add(piece.len(), Ordering::Relaxed);
            }
            world.server
        }
    });
    let mut read = Vec::new();
    let mut piece = [0; 1 << 14];
    while read.len() < whole.len() {
        tokio::time::sleep(INTERVAL).await;
        let count = world.viewer.read(&mut piece).await.unwrap();
        read.extend_from_slice(&piece[..count]);
        // What two connections hold, and one buffer: the rest is still the server's.
        assert!(taken.load(Ordering::Relaxed) <= read.len() + MAX_BUFFER + (4 << 10));
    }
    server.await.unwrap();
    assert_eq!(read[..whole.len()], whole);
}

#[tokio::test(start_paused = true)]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let mut world = world(1 << 16);
    let (first, second) = (frame(2, None, &[1; 1000]), frame(2, None, &[2; 10]));
    world.server.write_all(&first[..500]).await.unwrap();
    exactly(&mut world.viewer, &first[..500]).await;
    tokio::time::sleep(INTERVAL + INTERVAL / 2).await;
    world.server.write_all(&[&first[500..], &second].concat()).await.unwrap();
    exactly(&mut world.viewer, &first[500..]).await;
    ping(&mut world.viewer).await;
    exactly(&mut world.viewer, &second).await;
}

#[tokio::test(start_paused = true)]
async fn a_viewer_whose_server_is_slow_is_not_taken_for_gone() {
    let mut world = world(1 << 8);
    // The server reads nothing: the relay cannot read the viewer's answers.
    world.viewer.write_all(&frame(2, MASK, &[5; 500])).await.unwrap();
    tokio::time::sleep(INTERVAL * 5).await;
    assert!(!world.relay.is_finished());
    world.cut.cancel();
    assert_eq!(world.relay.await.unwrap().0.by, EndedBy::Cut);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_added_or_reordered(
        sent in proptest::collection::vec((1usize..3000, any::<u8>(), any::<bool>()), 1..20),
        room in 1usize..4096,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = world(room);
            let up: Vec<u8> = sent.iter().flat_map(|(size, byte, compressed)| message(2, MASK, *compressed, &vec![*byte; *size])).collect();
            let down: Vec<u8> = sent.iter().rev().flat_map(|(size, byte, compressed)| message(1, None, *compressed, &vec![*byte; *size])).collect();
            passes_as_it_came(&mut world.viewer, &mut world.server, &up, &down).await
        })?;
    }
}
