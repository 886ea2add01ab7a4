//! Two front doors of a farm, a load balancer in front of them, and a link to it from outside.

use hatchery_tests::balancer::{Balancer, DOOR_NAME, INSIDE, Kind, Ports};
use hatchery_tests::certs::curl;
use hatchery_tests::link::Link;
use hatchery_tests::metrics::Metrics;
use hatchery_tests::role::clients;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Certs, Farm, Look, Role, until};

use crate::tls::another_door;

/// A way into a farm. Its front doors are served by TLS and know their public URL, which leads through the link.
pub(super) struct Site {
    /// What callers use: `https://localhost:…`.
    pub(super) public: String,
    pub(super) link: Link,
    pub(super) balancer: Balancer,
    doors: Vec<Role>,
    certs: Certs,
}

impl Site {
    /// With these flags for the front doors; the balancer cuts what is idle for `idle` seconds.
    pub(super) async fn start(farm: &Farm, kind: Kind, flags: &[&str], idle: Option<u64>) -> Self {
        let certs = Certs::new(&["--frontdoor", &format!("door=127.0.0.1,{DOOR_NAME}")]);
        let ports = Ports::take();
        let link = Link::to(ports.https(), "the browser to the load balancer".to_owned()).await;
        let public = format!("https://localhost:{}", link.addr.port());
        let mut door_flags = certs.agent("door")[..4].to_vec();
        door_flags.extend(["--public-url".to_owned(), public.clone()]);
        door_flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let (mut doors, mut addresses) = (Vec::new(), Vec::new());
        for index in 0..2 {
            let name = format!("{kind:?}-{}-{index}", link.addr.port()).to_lowercase();
            let (role, http) = another_door(farm, &name, &door_flags).await;
            doors.push(role);
            addresses.push(http.addr);
        }
        let balancer = Balancer::start(kind, ports, &certs, [addresses[0], addresses[1]], idle).await;
        let site = Self { public, link, balancer, doors, certs };
        until("a front door is served", TIMEOUT, async || {
            let status = status(&site, "GET", "/healthz", &[]).await;
            Look::when(status == 200, || status.to_string())
        })
        .await;
        site
    }

    pub(super) fn port(&self) -> u16 {
        self.link.addr.port()
    }

    /// Waits until one of its front doors has logged this.
    pub(super) async fn doors_log(&self, words: &str) {
        until(words, TIMEOUT, async || {
            let logs: String = self.doors.iter().map(Role::log).collect();
            Look::when(logs.contains(words), || "no front door logs it".to_owned())
        })
        .await;
    }

    /// The front door that relays viewers; there must be exactly one.
    pub(super) async fn door_with_a_viewer(&mut self) -> &mut Role {
        let mut relaying = Vec::new();
        for (at, door) in self.doors.iter().enumerate() {
            let admin = clients(door.said().trim())[1];
            let viewers = Metrics::of(&admin).await.get("hatchery_frontdoor_relay_viewers").unwrap();
            if viewers > 0.5 {
                relaying.push(at);
            }
        }
        let [at] = relaying[..] else { panic!("front doors with viewers: {relaying:?}") };
        &mut self.doors[at]
    }

    pub(super) fn kill_doors(&mut self) {
        self.doors.iter_mut().for_each(Role::kill);
    }
}

/// What `curl` gets with these arguments, with its head.
pub(super) async fn ask(site: &Site, method: &str, path: &str, args: &[&str]) -> (u16, String) {
    call(site, &site.public, method, path, args).await
}

/// The same from an internal network, without the link.
pub(super) async fn ask_from_inside(site: &Site, method: &str, path: &str, args: &[&str]) -> (u16, String) {
    let base = format!("https://localhost:{}", site.balancer.addr().port());
    call(site, &base, method, path, &[args, &["--interface", INSIDE]].concat()).await
}

async fn call(site: &Site, base: &str, method: &str, path: &str, args: &[&str]) -> (u16, String) {
    let url = format!("{base}{path}");
    let all = [&["--request", method, "--include", "--path-as-is"], args].concat();
    let answer = curl(&url, Some(&site.certs.file("ca.pem")), &all).await;
    (answer.status, answer.body)
}

/// The arguments of a handshake that the load balancers pass on, and front doors refuse: it names no version. A whole one would be
/// answered, and then stay open.
pub(super) const HANDSHAKE: [&str; 4] = [
    "--http1.1",
    "-HConnection: Upgrade",
    "-HUpgrade: websocket",
    "-HSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

/// Its status alone; 0 when there was no answer.
pub(super) async fn status(site: &Site, method: &str, path: &str, args: &[&str]) -> u16 {
    ask(site, method, path, args).await.0
}
