//! A whole farm as one real process, and the commands against it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::SystemTime;

use serde_json::json;
use tempfile::TempDir;

use crate::process::{Ran, copy_of_hatchery, hatchery, run_at, signal, until};

/// A farm that is ended with the test, however the test ends.
#[derive(Debug)]
struct Farm {
    child: Option<Child>,
    url: String,
    /// What it printed before the last line of its notice.
    notice: String,
    /// Where it keeps what it needs; nothing is left there.
    temp: TempDir,
    _home: TempDir,
}

/// A directory with nothing but the binary: what cargo built beside it some time ago is not what is tested.
fn lone_binary() -> TempDir {
    // A link: while a copy is being written, a process that another test starts may hold it open, and it cannot run.
    let home = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    fs::hard_link(env!("CARGO_BIN_EXE_hatchery"), home.path().join("hatchery")).unwrap();
    home
}

impl Farm {
    fn start(args: &[&str]) -> Self {
        Self::start_in(lone_binary(), args)
    }

    /// With the binary in this directory.
    fn start_in(home: TempDir, args: &[&str]) -> Self {
        let temp = TempDir::new().unwrap();
        let binary = home.path().join("hatchery");
        let mut child = copy_of_hatchery(&binary, &["dev", "--listen", "127.0.0.1:0", "--log", "warn"])
            .args(args)
            .env("TMPDIR", temp.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut notice = String::new();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        while !notice.contains("Ctrl-C") {
            assert!(out.read_line(&mut notice).unwrap() > 0, "it ended early: {notice}");
        }
        let line = notice.lines().next().unwrap();
        let url = line.strip_prefix("dev listening on ").and_then(|rest| rest.split(',').next());
        let url = url.unwrap_or_else(|| panic!("{line}")).to_owned();
        child.stdout = Some(out.into_inner());
        Self { child: Some(child), url, notice, temp, _home: home }
    }

    fn run(&self, args: &[&str]) -> Ran {
        run_at(&self.url, args)
    }

    fn spawn(&self) -> serde_json::Value {
        let ran = self.run(&["spawn", "--json"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        ran.json()
    }

    /// Sends the signal and waits for the end.
    fn end(&mut self, name: &str) -> i32 {
        let child = self.child.take().unwrap();
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        output.status.code().unwrap_or(-1)
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It ends its spawns when asked to; killed, it could not.
            signal(&child, "TERM");
            child.wait().ok();
        }
    }
}

/// How many processes have this text on their command line; those that have ended but were not reaped have none.
fn processes_with(text: &str) -> usize {
    let has = |dir: &Path| {
        let mut line = Vec::new();
        let read = fs::File::open(dir.join("cmdline")).and_then(|mut file| file.read_to_end(&mut line));
        read.is_ok() && String::from_utf8_lossy(&line).contains(text)
    };
    fs::read_dir("/proc").unwrap().flatten().filter(|entry| has(&entry.path())).count()
}

#[test]
fn a_farm_in_one_process_serves_every_command_and_leaves_nothing_behind() {
    let mut farm = Farm::start(&["--nodes", "3", "--slots", "4"]);
    assert!(farm.notice.contains(&format!("curl -s -X POST {}/spawn", farm.url)), "{}", farm.notice);
    assert!(farm.notice.contains("simulated"), "{}", farm.notice);

    let nodes = farm.run(&["nodes", "--json"]).json();
    let names: Vec<&str> =
        nodes["nodes"].as_array().unwrap().iter().filter_map(|n| n["id"].as_str()).collect();
    assert_eq!(names, ["node-a", "node-b", "node-c"]);

    let spawn = farm.spawn();
    let id = spawn["id"].as_str().unwrap();
    let through_the_door = format!("{}/s/", farm.url.replace("http://", "ws://"));
    assert!(spawn["endpoint"].as_str().unwrap().starts_with(&through_the_door), "{spawn}");
    assert_eq!(processes_with(id), 1);

    let shown = farm.run(&["show", id, "--json"]).json();
    assert_eq!((&shown["state"], &shown["node"]), (&json!("ready"), &spawn["node"]));
    let page = farm.run(&["show", id]);
    assert!(page.stdout.contains("spawn.ready"), "{page:?}");
    let log = farm.run(&["log", id]);
    assert!(log.code == 0 && !log.stdout.is_empty(), "{log:?}");
    let list = farm.run(&["spawns", "--state", "ready"]);
    assert!(list.stdout.contains(id), "{list:?}");

    let stop = farm.run(&["stop", id, "--wait"]);
    assert_eq!(stop.code, 0, "{stop:?}");
    assert!(stop.stdout.contains("stopped"), "{stop:?}");
    assert_eq!(processes_with(id), 0);
    assert_eq!(farm.run(&["stop", id]).stdout, format!("{id}  had ended already\n"));
    assert_eq!(farm.run(&["show", "01987a5e-2f30-7c41-9d5c-0123456789ab"]).code, 3);

    let left = farm.spawn()["id"].as_str().unwrap().to_owned();
    assert_eq!(processes_with(&left), 1);
    assert_eq!(farm.end("INT"), 0);
    assert_eq!(processes_with(&left), 0, "spawns end with the farm");
    assert_eq!(fs::read_dir(farm.temp.path()).unwrap().count(), 0, "the scratch directory is gone");
}

#[test]
fn a_full_farm_refuses_and_a_bench_finds_its_slots_again() {
    let mut farm = Farm::start(&["--nodes", "1", "--slots", "2"]);
    let (first, second) = (farm.spawn(), farm.spawn());
    let full = farm.run(&["spawn"]);
    assert_eq!(full.code, 4, "{full:?}");
    assert!(full.stderr.contains("no-capacity"), "{full:?}");
    let ids = [first["id"].as_str().unwrap(), second["id"].as_str().unwrap()];
    let stop = farm.run(&["stop", "--wait", ids[0], ids[1]]);
    assert_eq!(stop.code, 0, "{stop:?}");

    let bench = farm.run(&["bench", "--count", "10", "--wait", "30s", "--json"]);
    assert_eq!((bench.code, &bench.json()["outcomes"]), (0, &json!({ "ready": 10 })), "{bench:?}");
    until("every slot is free", || farm.run(&["nodes", "--json"]).json()["nodes"][0]["slots"]["used"] == 0);
    assert_eq!(farm.end("TERM"), 0);
}

#[test]
fn farms_do_not_disturb_each_other_even_when_they_start_at_once() {
    // They all want the same port for their metrics.
    let farms = [(); 4].map(|()| std::thread::spawn(|| Farm::start(&["--nodes", "1"])));
    let [a, b, ..] = farms.map(|farm| farm.join().unwrap());
    let (one, two) = (a.spawn(), b.spawn());
    assert_ne!(one["endpoint"], two["endpoint"], "ports that are in use are passed over");
    assert_eq!(a.run(&["show", two["id"].as_str().unwrap()]).code, 3);
}

#[test]
fn a_log_is_followed_to_the_end_of_its_spawn() {
    let farm = Farm::start(&["--nodes", "1"]);
    let id = farm.spawn()["id"].as_str().unwrap().to_owned();
    let follow = hatchery(&["log", &id, "-f", "--server", &farm.url])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(farm.run(&["stop", &id]).code, 0);
    let ran = Ran::from(follow.wait_with_output().unwrap());
    assert!(ran.code == 0 && !ran.stdout.is_empty(), "{ran:?}");
}

#[test]
fn a_second_signal_hurries() {
    let mut farm = Farm::start(&["--nodes", "1"]);
    let ran = farm.run(&["spawn", "--session-token", "sim:ignore_term=1", "--json"]);
    let id = ran.json()["id"].as_str().unwrap().to_owned();
    let began = SystemTime::now();
    signal(farm.child.as_ref().unwrap(), "INT");
    let address = farm.url.strip_prefix("http://").unwrap();
    until("the first signal is heeded", || TcpStream::connect(address).is_err());
    assert_eq!(farm.end("INT"), 0);
    assert!(began.elapsed().unwrap() < model::timing::STOP_GRACE, "the grace was not waited for");
    assert_eq!(processes_with(&id), 0);
}

#[test]
fn a_simulator_beside_the_binary_is_used_and_else_the_binary_is_its_own() {
    let alone = Farm::start(&["--nodes", "1"]);
    let scratch = alone.temp.path().to_str().unwrap();
    assert!(alone.notice.contains(&format!("server    {scratch}")), "{}", alone.notice);

    let home = lone_binary();
    let beside = home.path().join("ts3d-sc-sim");
    std::os::unix::fs::symlink(home.path().join("hatchery"), &beside).unwrap();
    let farm = Farm::start_in(home, &["--nodes", "1"]);
    assert!(farm.notice.contains(&format!("server    {}", beside.display())), "{}", farm.notice);
    farm.spawn();
}

#[test]
fn a_wrong_setting_ends_it_before_anything_is_started() {
    for (args, names) in [
        (&["--nodes", "0"][..], "--nodes"),
        (&["--nodes", "2", "--slots", "501"], "--slots"),
        (&["--executable", "/bin/true"], "--license-file"),
        (&["--executable", "/does/not/exist", "--license-file", "/dev/null"], "--executable"),
        (&["--model-dir", "/does/not/exist"], "--model-dir"),
        (&["--registry", "mysql://x"], "--registry"),
        (&["--env", "X"], "--env"),
    ] {
        let ran = Ran::from(hatchery(&["dev", "--listen", "127.0.0.1:0"]).args(args).output().unwrap());
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(names), "{args:?}: {ran:?}");
    }
}
