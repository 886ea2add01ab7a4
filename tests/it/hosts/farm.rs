//! The farm on eight hosts: what runs where, and how a test reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hatchery_tests::binaries::binaries;
use hatchery_tests::guard::{Guard, MARK};
use hatchery_tests::hosts::{self, Daemon, Host, Network};
use hatchery_tests::role::hatchery;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Client, Look, Role, Viewer, audit, logs, processes, until};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

pub(super) const HOSTS: [(&str, u8); 8] = [
    ("redis", 1),
    ("balancer", 2),
    ("door-1", 3),
    ("door-2", 4),
    ("node-a", 11),
    ("node-b", 12),
    ("node-c", 13),
    ("client", 20),
];
pub(super) const DOORS: [&str; 2] = ["door-1", "door-2"];
pub(super) const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
/// Every agent has these, on its own host. They are below those that the kernel gives to outgoing connections, some of which
/// last as long as the farm does.
pub(super) const PORTS: std::ops::RangeInclusive<u16> = 31000..=31019;
/// Without a heartbeat for this long nothing is placed on a node.
pub(super) const STALE: Duration = Duration::from_secs(3);
/// And for this long its spawns are lost.
pub(super) const DOWN: Duration = Duration::from_secs(10);
/// For whoever is to notice, on a machine that is busy with other tests.
pub(super) const AIR: Duration = Duration::from_secs(4);

/// One front door takes over from the other within a request: whatever could not be sent is sent to the other. Callers have no
/// credential of their own here but on port 81; there are ways to one front door alone for a look.
pub(super) const BALANCER: &str = "
defaults
    mode http
    option redispatch
    retries 2
    timeout connect 1s
    timeout client 130s
    timeout server 130s
    timeout tunnel 1h
    default-server ssl verify required ca-file tls/ca.pem check check-ssl port 9080 inter 500ms fall 2 rise 1
frontend public
    bind BALANCER:80
    http-request set-header Authorization \"Bearer CREDENTIAL\"
    default_backend doors
frontend bare
    bind BALANCER:81
    default_backend doors
frontend first
    bind BALANCER:8001
    http-request set-header Authorization \"Bearer CREDENTIAL\"
    default_backend first
frontend second
    bind BALANCER:8002
    http-request set-header Authorization \"Bearer CREDENTIAL\"
    default_backend second
backend doors
    option httpchk
    http-check send meth GET uri /readyz ver HTTP/1.1 hdr Host localhost
    server door-1 DOOR-1:8080 sni str(door-1) check-sni door-1
    server door-2 DOOR-2:8080 sni str(door-2) check-sni door-2
backend first
    server door-1 DOOR-1:8080 no-check sni str(door-1)
backend second
    server door-2 DOOR-2:8080 no-check sni str(door-2)
";
/// What the balancer shows, and the line that lets it in.
pub(super) const CREDENTIAL: &str = "hatchery_balancer0000_ssssssssssssssssssssssssssssssssssssssssss8";
pub(super) const KEYS: &str = r#"{"id":"balancer0000","name":"balancer","scopes":["spawn","operate"],"sha256":"ebc56c00cb948f86ab2eb7b591dbc444d9fdec4f2a86f76b54598714d29d1703"}"#;

/// The farm, in the order in which it has to go.
pub(super) struct Farm {
    pub(super) agents: BTreeMap<&'static str, Role>,
    pub(super) doors: BTreeMap<&'static str, Role>,
    pub(super) _redis: Daemon,
    pub(super) _balancer: Daemon,
    pub(super) mark: PathBuf,
    pub(super) _scratch: TempDir,
    pub(super) _guard: Guard,
}

impl Farm {
    pub(super) fn on(network: &Network) -> Self {
        let scratch = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
        let mark = scratch.path().to_owned();
        let guard = Guard::over(&mark);
        let at = |host: &str| network.host(host).addr;
        std::fs::write(mark.join("keys"), KEYS).unwrap();
        std::fs::write(mark.join("password"), "not for everybody\n").unwrap();
        make_certificates(network, &mark);
        let address = at("redis").to_string();
        let redis = [
            "--bind",
            &address,
            "--port",
            "0",
            "--tls-port",
            "6379",
            "--tls-cert-file",
            "tls/redis.pem",
            "--tls-key-file",
            "tls/redis.key",
            "--tls-ca-cert-file",
            "tls/ca.pem",
            "--tls-auth-clients",
            "no",
            "--requirepass",
            "not for everybody",
            "--save",
            "",
            "--set-proc-title",
            "no",
        ];
        let redis = network.host("redis").start(&mark, "redis-server", &redis);
        let config = BALANCER
            .replace("BALANCER", &at("balancer").to_string())
            .replace("DOOR-1", &at("door-1").to_string())
            .replace("DOOR-2", &at("door-2").to_string())
            .replace("CREDENTIAL", CREDENTIAL);
        std::fs::write(mark.join("haproxy.cfg"), config).unwrap();
        let balancer = network.host("balancer").start(&mark, "haproxy", &["-db", "-f", "haproxy.cfg"]);
        let registry = format!("rediss://{}?ca=tls/ca.pem", at("redis"));
        let role = |host: &'static str, args: &[String]| {
            let mut args = args.to_vec();
            let (cert, key) = (format!("tls/{host}.pem"), format!("tls/{host}.key"));
            for (flag, value) in [
                ("--registry", registry.as_str()),
                ("--registry-password-file", "password"),
                ("--tls-cert", &cert),
                ("--tls-key", &key),
                ("--tls-client-ca", "tls/ca.pem"),
                ("--log-format", "json"),
                ("--log", "info,frontdoor=debug,agent=debug"),
            ] {
                args.extend([flag.to_owned(), value.to_owned()]);
            }
            (host, network.host(host).inside(|| Role::start(host, &mark, &args)))
        };
        let door = |host| {
            [
                listening("frontdoor", network.host(host), [8080, 9080]),
                vec!["--api-keys".into(), "keys".into()],
            ]
            .concat()
        };
        let doors = DOORS.map(|host| role(host, &door(host)));
        let agents = NODES.map(|host| role(host, &agent_line(network.host(host), &mark)));
        Self {
            agents: agents.into(),
            doors: doors.into(),
            _redis: redis,
            _balancer: balancer,
            mark,
            _scratch: scratch,
            _guard: guard,
        }
    }

    /// The spawned processes, by the host they run on.
    pub(super) fn running(&self, network: &Network) -> BTreeMap<&'static str, BTreeSet<String>> {
        let spawned = processes::marked(&self.mark);
        let spawned = spawned.iter().filter_map(|process| Some((process.pid, process.option("--id")?)));
        let mut running: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
        for (pid, id) in spawned {
            match NODES.into_iter().find(|node| network.host(node).holds(pid)) {
                Some(node) => drop(running.entry(node).or_default().insert(id.to_owned())),
                None => assert!(hosts::is_gone(pid), "process {pid}, {id}, runs on none of the nodes"),
            }
        }
        running
    }

    /// Waits until processes, records and used slots agree; what runs where.
    pub(super) async fn audit(
        &self,
        network: &Network,
        door: Client,
    ) -> BTreeMap<&'static str, BTreeSet<String>> {
        until("processes, nodes and records agree", TIMEOUT, async || {
            let running = self.running(network);
            let mut recorded: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
            for spawn in audit::all_spawns(door, "").await {
                if !["exited", "lost"].contains(&text(&spawn, "state")) {
                    let node = NODES.into_iter().find(|node| spawn["node"] == *node).unwrap();
                    recorded.entry(node).or_default().insert(text(&spawn, "id").to_owned());
                }
            }
            let mut used = BTreeMap::new();
            for node in NODES {
                let slots = door.json(&format!("/v1/nodes/{node}")).await["slots"]["used"].as_u64().unwrap();
                used.insert(node, slots);
            }
            let counted = |node| running.get(node).map_or(0, BTreeSet::len) as u64;
            let agree = running == recorded && used.iter().all(|(node, used)| *used == counted(node));
            Look::when(agree, || format!("{running:#?} {recorded:#?} {used:?}")).and(running)
        })
        .await
    }

    /// Ends it in order.
    pub(super) async fn finish(mut self) {
        for role in self.doors.values_mut().chain(self.agents.values_mut()).filter(|role| !role.killed) {
            role.signal(Signal::TERM);
            let status = role.end().await;
            assert!(status.success(), "{} ended with {status}:\n{}", role.name, role.log());
            let errors = logs::errors(&role.name, &role.log());
            assert!(errors.is_empty(), "{} logged {errors:#?}", role.name);
        }
    }
}

impl Drop for Farm {
    #[expect(clippy::print_stderr, reason = "the test's own output, shown when it fails")]
    fn drop(&mut self) {
        processes::end_all(&self.mark);
        if std::thread::panicking() {
            for role in self.doors.values().chain(self.agents.values()) {
                eprintln!("---- last of {}'s log:\n{}", role.name, logs::tail(&role.log(), 40));
            }
        }
    }
}

/// Everybody has a certificate of the farm's authority, for its own address.
pub(super) fn make_certificates(network: &Network, mark: &Path) {
    let named = |flag: &str, host: &str| [flag.to_owned(), format!("{host}={}", network.host(host).addr)];
    let certificates = DOORS.iter().flat_map(|host| named("--frontdoor", host));
    let servers = NODES.iter().copied().chain(["redis"]);
    let certificates = certificates.chain(servers.flat_map(|host| named("--agent", host)));
    let made = hatchery(mark)
        .args(["certs", "new", "--dir", "tls"])
        .args(certificates)
        .current_dir(mark)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

/// Beyond loopback, as on machines of their own.
pub(super) fn listening(role: &str, host: &Host, [listen, admin]: [u16; 2]) -> Vec<String> {
    let addr = host.addr;
    let [listen, admin] = [listen, admin].map(|port| format!("{addr}:{port}"));
    [role, "--listen", &listen, "--admin-listen", &admin].map(str::to_owned).into()
}

pub(super) fn agent_line(host: &Host, mark: &Path) -> Vec<String> {
    let mut line = listening("agent", host, [7070, 9070]);
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    for (flag, value) in [
        ("--node", host.name.clone()),
        ("--executable", path(&binaries().simulator)),
        ("--slots", "8".to_owned()),
        ("--ports", format!("{}-{}", PORTS.start(), PORTS.end())),
        ("--state-dir", path(&mark.join(&host.name))),
        ("--ping-interval", "1s".to_owned()),
        ("--env", format!("{MARK}={}", path(mark))),
        ("--arg", "--license=test".to_owned()),
    ] {
        line.extend([flag.to_owned(), value]);
    }
    line
}

pub(super) fn text<'a>(value: &'a Value, member: &str) -> &'a str {
    value[member].as_str().unwrap_or_else(|| panic!("no {member} in {value}"))
}

/// A spawn that somebody looks at.
pub(super) struct Watched {
    pub(super) id: String,
    pub(super) node: String,
    pub(super) viewer: Viewer,
}

impl Watched {
    /// Spawns, and connects to where the answer says.
    pub(super) async fn through(door: Client, network: &Network) -> Self {
        let answer = door.spawned(&json!({})).await;
        let (id, node) = (text(&answer, "id").to_owned(), text(&answer, "node").to_owned());
        let endpoint = text(&answer, "endpoint");
        assert!(endpoint.starts_with(&format!("ws://{}:310", network.host(&node).addr)), "{answer}");
        let mut watched = Self { id, node, viewer: Viewer::client_side(endpoint).await };
        watched.looks().await;
        watched
    }

    pub(super) async fn looks(&mut self) {
        self.viewer.open_model("").await;
        assert_eq!(self.viewer.receive_json().await["command"], "OPEN_MODEL_SUCCEEDED");
    }
}

/// Who has no credential, or no certificate.
pub(super) async fn strangers_get_nothing(door: Client, network: &Network) {
    for request in [door.post("/spawn").json(&json!({})), door.get("/v1/nodes"), door.get("/v1/spawns")] {
        let answer = request.send().await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"hatchery\""), "{answer:?}");
    }
    // An agent says nothing to whoever does not speak TLS, and nothing but its health to whoever has no certificate.
    for (host, port) in [("node-a", 7070), ("node-a", 9070), ("door-1", 8080), ("door-1", 9080)] {
        let addr = SocketAddr::from((network.host(host).addr, port));
        let answer = Client::new(addr).get("/metrics").try_send().await;
        assert!(answer.is_err(), "{host}:{port}: {answer:?}");
    }
}

/// Waits until a front door has these nodes up.
pub(super) async fn sees_up(door: Client, nodes: &[&str]) {
    until(&format!("{nodes:?} are up"), TIMEOUT, async || {
        // It may not listen yet, nor may the balancer have found it.
        let answer = match door.get("/v1/nodes").try_send().await {
            Ok(answer) if answer.status == 200 => answer.json(),
            other => return Look::NotYet(format!("{other:?}")),
        };
        let all = answer["nodes"].as_array().unwrap();
        let up: Vec<&str> = all.iter().filter(|n| n["availability"] == "up").map(|n| text(n, "id")).collect();
        Look::when(up == nodes, || answer.to_string())
    })
    .await;
}

/// On the host that this is called on.
pub(super) fn taken_ports() -> Vec<u16> {
    PORTS.filter(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_err()).collect()
}
