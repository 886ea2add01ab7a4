//! A stream cache server that was taken over, by a malicious model for example, against its agent and the servers of others. Each test is
//! an attack.

use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hatchery_tests::binaries::binaries;
use hatchery_tests::users::{Users, can, open_to_all, user};
use hatchery_tests::wait::{TIMEOUT, longer_than};
use hatchery_tests::{AgentPlan, Client, Dev, Farm, Look, is_root, skipped, until};
use rustix::fs::{FallocateFlags, fallocate};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;

/// Posts a report; its status and body.
async fn reported(receiver: Client, path: &str) -> (u16, String) {
    let answer = receiver.post(path).send().await;
    (answer.status, answer.text())
}

#[tokio::test]
async fn no_process_reports_for_a_spawn_without_its_secret() {
    let mut farm = Farm::small(3).await;
    let (victim, pid) = farm.starts_one().await;
    let (other, _) = farm.starts_one().await;
    let paths = [&victim, &other].map(|id| farm.process(id).unwrap().reports_to());
    let [own, foreign] = &paths;
    assert_ne!(own, foreign);
    let secret = own.split('/').nth(1).unwrap().to_owned();
    let (guess, beginning) =
        (format!("/{}/liveliness", "0".repeat(64)), format!("/{}/liveliness", &secret[..63]));
    for life in 0..2 {
        let receiver = farm.agents[0].liveliness;
        for path in ["/liveliness", foreign, &guess, &beginning] {
            for value in ["disconnect", "ready", "ping", "nonsense"] {
                let unknown =
                    reported(receiver, &format!("{path}/{}?liveliness={value}", uuid::Uuid::nil())).await;
                let refused = reported(receiver, &format!("{path}/{victim}?liveliness={value}")).await;
                assert_eq!(refused.0, 404, "{path} {value}");
                assert_eq!(refused, unknown, "as an id that nobody has: {path} {value}");
            }
        }
        let body = r#"{"error":"invalid spawnId."}"#.to_owned();
        assert_eq!(
            reported(receiver, &format!("{foreign}/{victim}?liveliness=disconnect")).await,
            (404, body)
        );
        assert_eq!(
            reported(receiver, &format!("{own}/{victim}?liveliness=ping")).await,
            (200, String::new())
        );
        assert_eq!(farm.record(&victim).await["state"], "ready");
        if life == 0 {
            // The next agent knows the secrets as well.
            farm.agents[0].role.kill();
            farm.agents[0].restart().await;
            farm.reaches(&victim, "ready", TIMEOUT).await;
        }
    }
    assert_eq!(farm.process(&victim).unwrap().pid, pid);

    // It is told to nobody, not even with what the server itself writes.
    let output = fs::read_to_string(farm.agents[0].output_file(&victim)).unwrap();
    assert!(output.contains(&secret), "the server writes its settings: {output}");
    let door = farm.door(0);
    for path in
        ["/v1/spawns", "/v1/nodes", &format!("/v1/spawns/{victim}"), &format!("/v1/spawns/{victim}/log")]
    {
        let told = door.get(path).send().await;
        assert_eq!(told.status, 200, "{told:?}");
        assert!(!told.text().contains(&secret), "{path}: {told:?}");
    }
    let shown = door.get(&format!("/v1/spawns/{victim}/log")).send().await.text();
    assert!(shown.contains("/…/liveliness"), "{shown}");
    for log in [farm.agents[0].role.log(), farm.doors[0].role.log()] {
        assert!(!log.contains(&secret));
    }
    for name in ["spawns", "lock"] {
        let mode = fs::metadata(farm.agents[0].state_dir.join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
    farm.stop([&*victim, &other]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_an_earlier_release_started_reports_without_a_secret() {
    let mut farm = Farm::small(2).await;
    farm.agents[0].role.kill();
    let agent = &farm.agents[0];
    // As that release did, and died before it could write it down.
    let (id, port) = (uuid::Uuid::now_v7().to_string(), *agent.ports.start());
    let log = fs::File::create(agent.state_dir.join(format!("logs/{id}.log"))).unwrap();
    let receiver = format!("http://{}/liveliness", agent.liveliness.addr);
    let mut server = Command::new(&binaries().simulator)
        .args(["--id", &id, "--sc-port", &port.to_string(), "--liveliness-endpoint", &receiver])
        .args(["--liveliness-update-frequency", "0.2", "--license-file", agent.flag("--license-file")])
        .env("HARNESS_FARM", farm.mark())
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    farm.agents[0].restart().await;
    farm.reaches(&id, "ready", TIMEOUT).await;
    farm.stop([&*id]).await;
    let reaped = tokio::task::spawn_blocking(move || server.wait());
    assert_eq!(farm.ends(&id).await["reason"], "stopped");
    reaped.await.unwrap().unwrap();
    farm.finish().await;
}

/// Connects from a port of its own, without a word.
async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    TcpSocket::new_v4()?.connect(addr).await
}

#[tokio::test]
async fn connections_that_say_nothing_keep_no_server_out_and_end_none() {
    let farm = Farm::builder().agent(AgentPlan::slots(4).args(&["--ping-interval", "500ms"])).start().await;
    let (lives, _) = farm.starts_one().await;
    let receiver = farm.agents[0].liveliness.addr;
    // Many more than there are places.
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(connect(receiver).await.unwrap());
    }
    for _ in 0..3 {
        let (id, _) = farm.starts_one().await;
        farm.stops_one(&id).await;
    }
    // By then it would be lost.
    longer_than(Duration::from_secs(5)).await;
    assert_eq!(farm.record(&lives).await["state"], "ready");
    let (id, _) = farm.starts_one().await;
    drop(idle);
    farm.stop([&*lives, &id]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_flood_of_connections_keeps_no_server_out_and_ends_none() {
    let farm = Farm::builder().agent(AgentPlan::slots(4).args(&["--ping-interval", "500ms"])).start().await;
    let (lives, _) = farm.starts_one().await;
    let receiver = farm.agents[0].liveliness.addr;
    let end = Instant::now() + Duration::from_secs(6);
    let flood = tokio::spawn(async move {
        let mut held = VecDeque::new();
        while Instant::now() < end {
            held.extend(connect(receiver).await);
            if held.len() > 500 {
                held.pop_front();
            }
        }
    });
    until("connections make room", TIMEOUT, async || {
        let evicted = farm.agents[0].metrics().await.sum("hatchery_agent_liveliness_evicted_total");
        Look::when(evicted > 100.0, || evicted.to_string())
    })
    .await;
    while !flood.is_finished() {
        let (id, _) = farm.starts_one().await;
        farm.stops_one(&id).await;
        assert_eq!(farm.record(&lives).await["state"], "ready");
    }
    flood.await.unwrap();
    farm.agents[0].role.logs("flooded with connections").await;
    farm.stops_one(&lives).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_spawn_can_do_nothing_to_another_spawn_or_to_the_agent() {
    if !is_root() {
        return skipped("spawns of users of their own", "only root may start them");
    }
    let users = Users::new(2);
    let farm = users.farm().await;
    let (victim, victims_pid) = farm.starts_one().await;
    let (other, attackers_pid) = farm.starts_one().await;
    let (victims, attacker) = (user(victims_pid), user(attackers_pid));
    assert_eq!(BTreeSet::from([victims, attacker]), users.all());
    let umask = fs::read_to_string(format!("/proc/{attackers_pid}/status")).unwrap();
    assert!(umask.contains("Umask:\t0077\n"), "what it makes is its own: {umask}");
    assert!(umask.contains("NoNewPrivs:\t1\n"), "no program makes it more than it is: {umask}");
    let limits = fs::read_to_string(format!("/proc/{attackers_pid}/limits")).unwrap();
    let processes = limits.lines().find(|line| line.starts_with("Max processes")).unwrap();
    assert_eq!(
        processes.split_ascii_whitespace().nth(3),
        Some("4096"),
        "it takes none of the others': {processes}"
    );
    let agent = &farm.agents[0];
    let state = agent.state_dir.display().to_string();
    let log = agent.output_file(&victim).display().to_string();
    for (what, on) in [("kill -0", victims_pid), ("kill -KILL", victims_pid), ("kill -0", agent.role.pid())] {
        assert!(!can(attacker, &format!("{what} {on}")), "{what} {on}");
    }
    for pid in [victims_pid, agent.role.pid()] {
        // Whoever may open these may also attach with ptrace.
        for script in ["cat environ", "exec 3<mem", "cat maps", "ls fd", "ls cwd/", "ls root/"] {
            assert!(!can(attacker, &format!("cd /proc/{pid} && {script}")), "{script} of {pid}");
        }
    }
    for script in
        [format!("cat {log}"), format!("ls {state}"), format!("touch {state}/logs/x"), format!("rm {log}")]
    {
        assert!(!can(attacker, &script), "{script}");
    }
    // What it may do to itself, the same way: the attacks are real.
    for script in ["kill -0 {}", "cd /proc/{} && exec 3<mem", "cd /proc/{} && cat environ && ls fd"] {
        assert!(can(attacker, &script.replace("{}", &attackers_pid.to_string())), "{script}");
    }
    assert_eq!(farm.record(&victim).await["state"], "ready");

    // Command lines are shown to all, unless the operator hides them, and the agent says so.
    let hidden = fs::read_to_string("/proc/self/mounts").unwrap().lines().any(|l| l.contains("hidepid="));
    let told = |log: &str| log.lines().filter(|line| line.contains("hidepid=invisible")).count();
    agent.role.logs_so("who sees command lines", |log| told(log) == usize::from(!hidden)).await;
    let where_hidden = |pid: u32| {
        let script = format!(
            "mount -t proc -o hidepid=invisible proc /proc && \
             exec setpriv --reuid {attacker} --regid {attacker} --clear-groups cat /proc/{pid}/cmdline"
        );
        let output = Command::new("unshare").args(["--mount", "sh", "-c", &script]).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    match where_hidden(attackers_pid) {
        (true, _) => assert!(!where_hidden(victims_pid).0, "a command line of others"),
        (false, why) => skipped("hidden command lines", &why),
    }
    farm.stop([&*victim, &other]).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_user_is_one_spawns_at_a_time_through_ends_and_new_agents_and_finds_nothing_of_the_last_one() {
    if !is_root() {
        return skipped("spawns of users of their own", "only root may start them");
    }
    let users = Users::new(2);
    let mut farm = users.farm().await;
    let (first, first_pid) = farm.starts_one().await;
    let (second, second_pid) = farm.starts_one().await;
    let (rests, stays) = (user(first_pid), user(second_pid));
    let left = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    let left_file = left.path().to_owned();
    std::os::unix::fs::chown(&left_file, Some(rests), Some(rests)).unwrap();
    farm.stops_one(&first).await;
    // A process that left nothing by which it is known but its user.
    let mut stray = Command::new("sleep");
    let mut stray = stray.arg("600").env_clear().uid(rests).gid(rests).process_group(0).spawn().unwrap();

    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    farm.audit().await;
    assert_eq!(user(farm.process(&second).unwrap().pid), stays);
    let (third, third_pid) = farm.starts_one().await;
    assert_eq!(user(third_pid), rests, "the other one is taken");
    let ended = tokio::task::spawn_blocking(move || stray.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), None, "killed");
    assert!(!left_file.exists());
    for id in [&second, &third] {
        farm.stops_one(id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_whose_secrets_or_state_others_could_reach_does_not_start() {
    let farm = Farm::small(1).await;
    let (state, key) = (farm.mark().join("other"), farm.mark().join("password"));
    let any = "127.0.0.1:0";
    let start = async |state: &Path, flags: &[&str]| {
        let args =
            ["agent", "--node", "other", "--executable", "/bin/true", "--registry", "redis://127.0.0.1:1"];
        let state = ["--state-dir", state.to_str().unwrap(), "--listen", any, "--admin-listen", any];
        farm.run(&[args.as_slice(), &state, &["--liveliness-listen", any], flags].concat()).await
    };
    let mut cases: Vec<(PathBuf, Vec<&str>, Vec<&str>)> = vec![(
        state.clone(),
        vec!["--spawn-user", "1000000-1000001", "--slots", "4"],
        vec!["--spawn-user", "4 slots (--slots)", "1000000-1000001 has only 2"],
    )];
    let open = farm.mark().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    cases.push((open, vec![], vec!["--state-dir", "0777", "chmod 0700"]));
    if is_root() {
        let foreign = farm.mark().join("foreign");
        fs::create_dir(&foreign).unwrap();
        std::os::unix::fs::chown(&foreign, Some(1_000_001), None).unwrap();
        cases.push((foreign, vec![], vec!["--state-dir", "owned by user 1000001"]));
        fs::write(&key, "secret").unwrap();
        fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
        open_to_all(farm.mark());
        let flags = |users| vec!["--spawn-user", users, "--slots", "4", "--registry-password-file"];
        let with = |users, key| [flags(users), vec![key]].concat();
        let expected = vec!["--registry-password-file", "0644", "1000000-1000003"];
        cases.push((state.clone(), with("1000000-1000003", key.to_str().unwrap()), expected));
        let group_key = farm.mark().join("password-of-a-group");
        fs::write(&group_key, "secret").unwrap();
        std::os::unix::fs::chown(&group_key, None, Some(1_000_500)).unwrap();
        fs::set_permissions(&group_key, fs::Permissions::from_mode(0o640)).unwrap();
        let group_key = String::from(group_key.to_str().unwrap()).leak();
        let expected = vec!["--registry-password-file", "0640", "1000000-1000003:1000500"];
        cases.push((state, with("1000000-1000003:1000500", group_key), expected));
    }
    for (state, flags, words) in cases {
        let ran = start(&state, &flags).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "no {word} in {ran:?}");
        }
    }
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_says_once_what_servers_of_its_own_user_could_do_and_a_developers_farm_does_not() {
    const WORDS: &str = "spawns run as the agent's own user";
    let farm = Farm::small(1).await;
    let log = farm.agents[0].role.logs(WORDS).await;
    let told: Vec<&str> = log.lines().filter(|line| line.contains(WORDS)).collect();
    assert!(told.len() == 1 && told[0].contains("WARN") && told[0].contains("--spawn-user"), "{told:?}");
    farm.finish().await;
    let dev = Dev::start(&["--nodes", "1"]).await;
    assert!(!dev.role.log().contains(WORDS), "{}", dev.role.log());
}

#[tokio::test]
async fn a_link_in_the_place_of_an_output_file_hands_out_nothing() {
    let farm = Farm::small(1).await;
    let (id, _) = farm.starts_one().await;
    let (log, secret) = (farm.agents[0].output_file(&id), farm.mark().join("secret"));
    fs::write(&secret, "the-password\n").unwrap();
    for put in
        [&(|| symlink(&secret, &log)) as &dyn Fn() -> std::io::Result<()>, &|| fs::hard_link(&secret, &log)]
    {
        fs::remove_file(&log).unwrap();
        put().unwrap();
        let read = farm.door(0).get(&format!("/v1/spawns/{id}/log")).send().await;
        assert!(read.status >= 400 && !read.text().contains("the-password"), "{read:?}");
    }
    fs::remove_file(&log).unwrap();
    farm.stops_one(&id).await;
    assert_eq!(fs::read_to_string(&secret).unwrap(), "the-password\n");
}

#[tokio::test]
async fn what_a_server_reserves_beyond_the_end_of_its_output_is_taken_back() {
    let farm = Farm::small(1).await;
    let (id, _) = farm.starts_one().await;
    let path = farm.agents[0].output_file(&id);
    let log = fs::File::options().append(true).open(&path).unwrap();
    let on_disk = || fs::metadata(&path).unwrap().blocks() * 512;
    if let Err(error) = fallocate(&log, FallocateFlags::KEEP_SIZE, 1 << 20, 64 << 20) {
        farm.stop([&*id]).await;
        return skipped("space beyond the end of a file", &error.to_string());
    }
    until("it is taken back", TIMEOUT, async || {
        Look::when(on_disk() <= 8 << 20, || format!("{} bytes", on_disk()))
    })
    .await;
    farm.stops_one(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_process_of_another_user_that_looks_like_a_spawn_is_left_alone_and_hinders_nothing() {
    if !is_root() {
        return skipped("processes of another user", "only root may start them");
    }
    let users = Users::new(1);
    let mut farm = Farm::small(2).await;
    farm.agents[0].role.kill();
    let agent = &farm.agents[0];
    let (id, port) = (uuid::Uuid::now_v7().to_string(), *agent.ports.start());
    let log = fs::File::create(agent.state_dir.join(format!("logs/{id}.log"))).unwrap();
    let license = users.dir.path().join("license");
    fs::write(&license, "for tests\n").unwrap();
    let receiver = format!("http://{}/liveliness", agent.liveliness.addr);
    let mut impostor = Command::new(&users.executable)
        .args(["--id", &id, "--sc-port", &port.to_string(), "--liveliness-endpoint", &receiver])
        .args(["--liveliness-update-frequency", "0.2", "--license-file", license.to_str().unwrap()])
        .uid(users.first)
        .gid(users.first)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .process_group(0)
        .spawn()
        .unwrap();
    farm.agents[0].restart().await;
    const WORDS: &str = "a process of another user looks like a spawn";
    let said = farm.agents[0].role.logs(WORDS).await;
    let line = said.lines().find(|line| line.contains(WORDS));
    assert!(line.is_some_and(|line| line.contains(&id) && line.contains(&users.first.to_string())), "{said}");
    assert_eq!(farm.door(0).get(&format!("/v1/spawns/{id}")).send().await.status, 404);
    let both = [farm.starts_one().await.0, farm.starts_one().await.0];
    assert_eq!(impostor.try_wait().unwrap(), None, "it is none of the agent's business");
    impostor.kill().unwrap();
    impostor.wait().unwrap();
    farm.stop(both.iter().map(String::as_str)).await;
    farm.finish().await;
}
