//! Machines that are no good node, each in one way, and one that is.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use futures_util::{StreamExt, stream};
use hatchery_tests::ports::Block;
use hatchery_tests::program::Program;
use hatchery_tests::users::Users;
use hatchery_tests::{Certs, Farm, RedisServer, is_root, skipped};
use serde_json::Value;

use super::{Said, doctor};

/// A machine, and the flags of an agent on it.
struct Node {
    users: Users,
    flags: BTreeMap<&'static str, String>,
    env: Vec<(&'static str, &'static str)>,
    program: Program,
    /// Ports that something else has.
    taken: Vec<TcpListener>,
    certs: Certs,
    /// Those of another farm.
    others: Option<Certs>,
    blocks: [Block; 2],
}

impl Node {
    /// A good one, but for who its servers run as.
    fn new() -> Self {
        let users = Users::new(4);
        let (spawns, own) = (Block::take(), Block::take());
        let ports = spawns.range(8);
        let mut listen = own.range(3).map(|port| format!("127.0.0.1:{port}"));
        let mut listen = || listen.next().unwrap();
        let certs = Certs::two_agents(&[]);
        let mut node = Self {
            flags: BTreeMap::from([
                ("--node", "node-a".to_owned()),
                ("--executable", users.executable.display().to_string()),
                ("--ports", format!("{}-{}", ports.start(), ports.end())),
                ("--slots", "4".to_owned()),
                ("--listen", listen()),
                ("--admin-listen", listen()),
                ("--liveliness-listen", listen()),
                ("--ssr", "false".to_owned()),
                ("--registry", "embedded".to_owned()),
            ]),
            users,
            env: Vec::new(),
            program: Program::default(),
            taken: Vec::new(),
            certs,
            others: None,
            blocks: [spawns, own],
        };
        node.file("license", "a-key-as-the-vendor-sends-it-hush\n", 0o644);
        fs::create_dir(node.path("models")).unwrap();
        node.mode("models", 0o755);
        for (flag, name) in
            [("--license-file", "license"), ("--model-dir", "models"), ("--state-dir", "state")]
        {
            node.set(flag, name);
        }
        node
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.users.dir.path().join(name)
    }

    fn set(&mut self, flag: &'static str, name: &str) {
        let path = self.path(name).display().to_string();
        self.flags.insert(flag, path);
    }

    fn give(&mut self, flag: &'static str, value: &str) {
        self.flags.insert(flag, value.to_owned());
    }

    fn file(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        self.mode(name, mode);
    }

    fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    /// Servers run as users of their own.
    fn apart(&mut self) {
        let range = self.users.range();
        self.give("--spawn-user", &range);
    }

    fn take(&mut self, address: String) {
        self.taken.push(TcpListener::bind(address).unwrap());
    }

    /// With the farm's certificate of this name, which callers see under 127.0.0.1.
    fn with_tls(&mut self, name: &str) {
        let files = [("--tls-cert", format!("{name}.pem")), ("--tls-key", format!("{name}.key"))];
        for (flag, file) in files.into_iter().chain([("--tls-client-ca", "ca.pem".to_owned())]) {
            let path = self.certs.path(&file);
            self.give(flag, &path);
        }
    }

    async fn examined(&self) -> Said {
        let pairs = self.flags.iter().filter(|(_, value)| !value.is_empty());
        let flags: Vec<&str> = pairs.flat_map(|(flag, value)| [*flag, value.as_str()]).collect();
        doctor(&self.program, self.users.dir.path(), &self.env, &[&["--agent"], flags.as_slice()].concat())
            .await
    }
}

type Case = (&'static str, fn(&mut Node), (&'static str, &'static str, &'static str));

/// What every user can try.
const CASES: &[Case] = &[
    ("no executable", |n| n.set("--executable", "none"), ("executable", "problem", "cannot be used")),
    ("a flag is missing", |n| n.give("--executable", ""), ("flags", "problem", "--executable")),
    ("a directory", |n| n.set("--executable", "models"), ("executable", "problem", "is no file")),
    ("not executable", |n| n.mode("ts3d-sc-sim", 0o644), ("executable", "problem", "cannot run")),
    ("no licence", |n| n.set("--license-file", "none"), ("license", "problem", "cannot be used")),
    ("no --license-file", |n| n.give("--license-file", ""), ("license", "warning", "no --license-file")),
    ("an empty licence", |n| n.file("license", "\n", 0o644), ("license", "problem", "is empty")),
    (
        "a licence from Windows",
        |n| n.file("license", "\u{feff}hush\n", 0o644),
        ("license", "problem", "byte order mark"),
    ),
    (
        "another file",
        |n| n.file("license", "<html>hush", 0o644),
        ("license", "problem", "another kind of file"),
    ),
    ("no models", |n| n.set("--model-dir", "none"), ("model-dir", "problem", "cannot be used")),
    ("models in a file", |n| n.set("--model-dir", "license"), ("model-dir", "problem", "is no directory")),
    (
        "a state directory of everybody",
        |n| {
            fs::create_dir(n.path("state")).unwrap();
            n.mode("state", 0o777);
        },
        ("state-dir", "problem", "mode 0777"),
    ),
    ("a state directory below a file", |n| n.set("--state-dir", "license/x"), ("state-dir", "problem", "")),
    (
        "a taken port",
        |n| n.take(format!("127.0.0.1:{}", n.blocks[0].range(8).start())),
        ("ports", "warning", "1 by process"),
    ),
    (
        "a port taken over IPv6",
        |n| n.take(format!("[::1]:{}", n.blocks[0].range(8).end())),
        ("ports", "warning", "7 ports are left"),
    ),
    (
        "too few ports",
        |n| {
            for port in n.blocks[0].range(5) {
                n.take(format!("127.0.0.1:{port}"));
            }
        },
        ("ports", "problem", "3 ports are left for 4 slots"),
    ),
    ("ports of the kernel", |n| n.give("--ports", "45000-45007"), ("ephemeral-ports", "warning", "8 ports")),
    (
        "its own port is taken",
        |n| n.take(n.flags["--liveliness-listen"].clone()),
        ("listen", "problem", "--liveliness-listen) is taken by process"),
    ),
    (
        "a foreign address",
        |n| {
            n.give("--listen", "192.0.2.1:7070");
            n.env.push(("HATCHERY_INSECURE", "true"));
        },
        ("listen", "problem", "cannot be had"),
    ),
    ("open to all", |n| n.give("--listen", "0.0.0.0:7070"), ("flags", "problem", "--listen")),
    ("no slots", |n| n.give("--slots", "0"), ("flags", "problem", "--slots")),
    ("no control group", |n| n.set("--cgroup", "models"), ("cgroup", "problem", "is not")),
    (
        "GPUs that are not there",
        |n| {
            n.give("--ssr", "true");
            n.give("--gpus", "1000");
        },
        ("gpus", "problem", "--gpus is 1000"),
    ),
    (
        "no display",
        |n| {
            n.give("--ssr", "true");
            n.env.push(("DISPLAY", ":977"));
        },
        ("display", "problem", ":977"),
    ),
    (
        "few descriptors",
        |n| n.program.under = vec!["prlimit".into(), "--nofile=256:256".into()],
        ("descriptors", "warning", "256"),
    ),
    ("no user of their own", |_| (), ("separation", "warning", "agent's own user")),
    (
        "no such host",
        |n| n.give("--public-host", "nowhere.invalid"),
        ("public-host", "problem", "nowhere.invalid"),
    ),
    ("loopback", |n| n.give("--registry", "redis://192.0.2.1:1"), ("advertise", "problem", "loopback")),
    (
        "a registry elsewhere",
        |n| n.give("--registry", "redis://192.0.2.1:1"),
        ("registry-reachable", "problem", "192.0.2.1"),
    ),
    (
        "an open registry elsewhere, and TLS",
        |n| {
            n.with_tls("node-a");
            n.give("--registry", "redis://192.0.2.1:1");
        },
        ("registry-protection", "problem", "without TLS and a password"),
    ),
    ("another node's certificate", |n| n.with_tls("node-b"), ("tls", "problem", "node-b")),
    (
        "another key",
        |n| {
            n.with_tls("node-a");
            let key = n.certs.path("node-b.key");
            n.give("--tls-key", &key);
        },
        ("tls", "problem", "not that of"),
    ),
    (
        "another farm's certificate",
        |n| {
            n.with_tls("node-a");
            let others = n.others.insert(Certs::two_agents(&[]));
            let ca = others.path("ca.pem");
            n.give("--tls-client-ca", &ca);
        },
        ("tls", "problem", "is not of the CA"),
    ),
    (
        "another name",
        |n| {
            n.with_tls("node-a");
            n.give("--advertise", "https://localhost:7070");
        },
        ("tls", "problem", "is not for localhost"),
    ),
    (
        "expired",
        |n| {
            n.with_tls("node-a");
            n.program.clock = 400 * 24 * 3600;
        },
        ("tls", "problem", "expired 3 days ago"),
    ),
    (
        "not valid yet",
        |n| {
            n.with_tls("node-a");
            n.program.clock = -30 * 24 * 3600;
        },
        ("tls", "problem", "is not valid before another"),
    ),
];

/// What takes users of their own, and so root.
const CASES_OF_ROOT: &[Case] = &[
    ("a licence for root alone", |n| n.file("license", "hush", 0o600), ("license", "problem", "cannot read")),
    ("models for root alone", |n| n.mode("models", 0o700), ("model-dir", "problem", "cannot read")),
    ("a server for root alone", |n| n.mode("ts3d-sc-sim", 0o700), ("executable", "problem", "cannot run")),
    (
        "a readable key",
        |n| {
            n.with_tls("node-a");
            fs::set_permissions(n.certs.file("node-a.key"), fs::Permissions::from_mode(0o644)).unwrap();
            fs::set_permissions(
                n.certs.file("node-a.key").parent().unwrap(),
                fs::Permissions::from_mode(0o755),
            )
            .unwrap();
        },
        ("separation", "problem", "--tls-key"),
    ),
    (
        "a readable password of the registry",
        |n| {
            n.file("password", "hush\n", 0o644);
            n.set("--registry-password-file", "password");
        },
        ("separation", "problem", "--registry-password-file"),
    ),
    ("processes in sight", |_| (), ("separation", "warning", "command lines")),
];

#[tokio::test]
async fn what_keeps_a_machine_from_being_a_good_node_is_named() {
    let root: &[Case] = if is_root() { CASES_OF_ROOT } else { &[] };
    if root.is_empty() {
        skipped("servers that run as users of their own", "only root may start them");
    }
    let cases = CASES.iter().map(|case| (case, false)).chain(root.iter().map(|case| (case, true)));
    let runs = stream::iter(cases).map(|((name, spoil, expected), apart)| async move {
        let mut node = Node::new();
        if apart {
            node.apart();
        }
        spoil(&mut node);
        node.examined().await.expect(name, *expected);
    });
    runs.buffer_unordered(4).collect::<Vec<()>>().await;
}

#[tokio::test]
async fn of_a_good_node_nothing_but_good_is_said() {
    if !is_root() {
        return skipped("servers that run as users of their own", "only root may start them");
    }
    let hidden = "mount -t proc -o hidepid=invisible proc /proc";
    let tried = Command::new("unshare").args(["--mount", "sh", "-c", hidden]).output();
    if !tried.as_ref().is_ok_and(|tried| tried.status.success()) {
        return skipped("a node whose servers see no processes", &format!("{tried:?}"));
    }
    let mut node = Node::new();
    let redis = RedisServer::start(node.users.dir.path()).await;
    node.apart();
    node.give("--registry", &redis.url());
    node.with_tls("node-a");
    let hidden = format!("{hidden} && exec \"$0\" \"$@\"");
    node.program.under = ["unshare", "--mount", "sh", "-c", &hidden].map(str::to_owned).to_vec();
    let said = node.examined().await;
    assert_eq!(said.doubts(), Vec::<&Value>::new());
    for check in [
        "executable",
        "license",
        "model-dir",
        "state-dir",
        "ports",
        "listen",
        "pidfd",
        "descriptors",
        "separation",
        "tls",
    ] {
        assert!(said.has(check, "ok", ""), "{check}: {:#?}", said.findings);
    }
    assert!(!node.path("state").exists(), "nothing is made");
}

#[tokio::test]
async fn what_an_agent_that_runs_has_is_its_own() {
    let farm = Farm::small(2).await;
    let (id, _) = farm.starts_one().await;
    let agent = &farm.agents[0];
    let flags = [
        "--node",
        "--listen",
        "--admin-listen",
        "--liveliness-listen",
        "--executable",
        "--ports",
        "--state-dir",
        "--slots",
    ];
    let flags: Vec<&str> = flags.into_iter().flat_map(|flag| [flag, agent.flag(flag)]).collect();
    let args = [&["--agent", "--ssr", "false", "--registry", "embedded"], flags.as_slice()].concat();
    let said = doctor(&Program::default(), farm.mark(), &[], &args).await;
    assert!(
        said.findings.iter().filter(|finding| finding["check"] == "listen").count() == 3,
        "{:#?}",
        said.findings
    );
    assert!(said.has("listen", "ok", "that of the agent that runs"), "{:#?}", said.findings);
    assert!(said.has("ports", "ok", "1 of them used by spawns"), "{:#?}", said.findings);
    farm.stops_one(&id).await;
    farm.finish().await;
}
