//! Posts to the liveliness endpoint: their form, their order, and what happens when nobody listens.

use crate::process::{free_port, sim};
use crate::receiver::{Manner, Receiver};
use crate::viewer::Viewer;

#[test]
fn ready_comes_first_then_pings_and_disconnect_last() {
    let receiver = Receiver::new(Manner::Keep);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url("/liveliness"))
        .option("--liveliness-update-frequency", "0.05")
        .run();
    receiver.gets("ready");
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    receiver.gets("ping");
    viewer.leaves();
    sim.ends_with(0);

    let posts = receiver.posts.all();
    let (first, last) = (&posts[0], &posts[posts.len() - 1]);
    assert_eq!(first.target, "POST /liveliness/spawn-1?liveliness=ready");
    assert_eq!(last.target, "POST /liveliness/spawn-1?liveliness=disconnect");
    for post in &posts[1..posts.len() - 1] {
        assert_eq!(post.target, "POST /liveliness/spawn-1?liveliness=ping");
    }
    for post in &posts {
        assert_eq!(post.content_length.as_deref(), Some("0"));
        assert_eq!(post.connection, 0, "one connection is kept: {posts:#?}");
    }
}

#[test]
fn a_slash_at_the_end_of_the_base_is_dropped() {
    for base in ["", "/", "/api/spawns", "/api/spawns/"] {
        let receiver = Receiver::new(Manner::Keep);
        let _sim = sim().option("--liveliness-endpoint", &receiver.url(base)).run();
        let expected = format!("POST {}/spawn-1?liveliness=ready", base.trim_end_matches('/'));
        assert_eq!(receiver.gets("ready").target, expected);
    }
}

#[test]
fn a_doubled_slash_is_posted_on_request() {
    let receiver = Receiver::new(Manner::Keep);
    let _sim = sim()
        .option("--liveliness-endpoint", &receiver.url("/api/"))
        .env("SC_SIM_LIVELINESS_DOUBLE_SLASH", "1")
        .run();
    assert_eq!(receiver.gets("ready").target, "POST /api//spawn-1?liveliness=ready");
}

#[test]
fn the_port_is_open_at_ready_and_closed_at_disconnect() {
    let start = sim().option("--initial-use-duration", "1");
    let receiver = Receiver::watching(Manner::Keep, Some(start.port()));
    let mut sim = start.option("--liveliness-endpoint", &receiver.url("")).run();
    assert!(receiver.gets("ready").port_open);
    sim.ends_with(0);
    assert!(!receiver.gets("disconnect").port_open);
}

#[test]
fn a_kept_connection_that_was_closed_is_replaced_without_loss() {
    let receiver = Receiver::new(Manner::Drop);
    let sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--liveliness-update-frequency", "0.05")
        .run();
    let posts = receiver.posts.wait_until("three posts", |all| (all.len() >= 3).then(|| all.to_vec()));
    for (n, post) in posts.iter().enumerate() {
        assert_eq!(post.connection, n);
    }
    let log = sim.stdout.all();
    assert!(!log.iter().any(|line| line.contains("Failed to send HTTP ping")), "{log:?}");
}

#[test]
fn a_refused_post_is_logged_and_the_server_goes_on() {
    let receiver = Receiver::new(Manner::NotFound);
    let mut sim = sim()
        .option("--liveliness-endpoint", &receiver.url(""))
        .option("--liveliness-update-frequency", "0.05")
        .run();
    sim.logs("Failed to send HTTP ping: response='404 Not Found'");
    assert_eq!(receiver.gets("ping").connection, 0, "a 404 keeps the connection");
    assert!(sim.is_running());
}

#[test]
fn without_a_receiver_the_server_still_serves() {
    let nobody = format!("http://127.0.0.1:{}/", free_port());
    let mut sim = sim().option("--liveliness-endpoint", &nobody).run();
    sim.logs("Failed to send HTTP ping: response='");
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    viewer.receives_json();
    viewer.leaves();
    sim.ends_with(0);
}

#[test]
fn a_receiver_that_hangs_delays_nothing_but_the_posts() {
    let receiver = Receiver::new(Manner::Hang);
    let mut sim = sim().option("--liveliness-endpoint", &receiver.url("")).run();
    receiver.gets("ready");
    let mut viewer = Viewer::client_side(&sim);
    viewer.open_model("");
    viewer.receives_json();
    sim.logs("Failed to send HTTP ping");
    let log = sim.stdout.all();
    let line = |text: &str| log.iter().position(|line| line.contains(text));
    assert!(line("opened model") < line("Failed to send"), "{log:#?}");
    viewer.leaves();
    sim.ends_with(0);
}

#[test]
fn without_an_endpoint_nothing_is_posted() {
    let sim = sim().run();
    sim.logs("HTTP Ping client disabled via settings");
    sim.listens();
}
