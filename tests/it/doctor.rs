//! `hatchery doctor`: set-ups that are broken in one way each, and what is said of them; and whole ones.

mod front_door;
mod node;
mod redis;

use std::path::Path;

use hatchery_tests::command::run_as;
use hatchery_tests::program::Program;
use hatchery_tests::{Farm, Ran};
use serde_json::Value;

/// Stands in every password, key and licence of these tests; no output may have it.
const SECRET: &str = "hush";

/// What was said.
#[derive(Debug)]
struct Said {
    ran: Ran,
    findings: Vec<Value>,
}

impl Said {
    /// The findings of a run with `--json`, whose exit code must be that of the worst of them.
    fn of(ran: Ran) -> Self {
        assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET), "{ran:?}");
        let report = ran.json();
        let findings = report["findings"].as_array().unwrap_or_else(|| panic!("{ran:?}")).clone();
        let problems = findings.iter().filter(|finding| finding["level"] == "problem").count();
        assert_eq!(ran.code, i32::from(problems > 0), "{ran:?}");
        assert_eq!(report["problems"], problems, "{ran:?}");
        for finding in &findings {
            let bad = finding["level"] != "ok";
            assert!(finding["found"].is_string(), "{finding}");
            assert!(finding["why"].is_string() == bad && finding["advice"].is_string() == bad, "{finding}");
        }
        Self { ran, findings }
    }

    /// Whether there is such a finding.
    fn has(&self, check: &str, level: &str, words: &str) -> bool {
        self.findings.iter().any(|finding| {
            let is = finding["check"] == check && finding["level"] == level;
            is && finding["found"].as_str().is_some_and(|found| found.contains(words))
        })
    }

    /// Fails without such a finding.
    fn expect(&self, case: &str, (check, level, words): (&str, &str, &str)) {
        assert!(
            self.has(check, level, words),
            "{case}: no {level} of {check} with {words:?} in {:#?}",
            self.findings
        );
    }

    /// What is not as it should be.
    fn doubts(&self) -> Vec<&Value> {
        self.findings.iter().filter(|finding| finding["level"] != "ok").collect()
    }
}

/// Runs it in a directory, with these variables.
async fn doctor(program: &Program, mark: &Path, env: &[(&str, &str)], args: &[&str]) -> Said {
    let args = [&["doctor", "--json"], args].concat();
    Said::of(run_as(program, mark, env, &args).await)
}

/// The same against a farm's first front door.
async fn of_farm(farm: &Farm, args: &[&str]) -> Said {
    Said::of(farm.run(&[&["doctor", "--json"], args].concat()).await)
}

#[tokio::test]
async fn of_a_whole_farm_nothing_but_good_is_said() {
    let farm = Farm::small(2).await;
    let url = farm.redis.url();
    let said = of_farm(&farm, &["--registry", &url, "--farm", "test"]).await;
    assert_eq!(said.doubts(), Vec::<&Value>::new());
    for check in [
        "front-door-tcp",
        "front-door",
        "clock",
        "credential",
        "versions",
        "capacity",
        "registry-eviction",
        "registry-acl",
    ] {
        assert!(said.has(check, "ok", ""), "{check}: {:#?}", said.findings);
    }
    let text = farm.run(&["doctor"]).await;
    assert!(text.code == 0 && text.stdout.contains("0 problems, 0 warnings"), "{text:?}");
    let quiet = farm.run(&["doctor", "-q"]).await;
    assert!(quiet.stdout.lines().count() == 1, "{quiet:?}");
    farm.audit().await;
    farm.finish().await;
}

#[tokio::test]
async fn flags_of_an_agent_without_agent_are_a_mistake_and_its_environment_is_none() {
    let farm = Farm::small(1).await;
    let ran = farm.run(&["doctor", "--slots", "3"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("--slots goes with --agent"), "{ran:?}");
    let server = format!("http://{}", farm.door(0).addr);
    let env = [("HATCHERY_SLOTS", "3"), ("HATCHERY_SERVER", server.as_str())];
    let said = doctor(&Program::default(), farm.mark(), &env, &[]).await;
    assert_eq!(said.doubts(), Vec::<&Value>::new());
    for wrong in
        [&["doctor", "--server", "nonsense://"][..], &["doctor", "--token-file", "nowhere"], &["doctor", "x"]]
    {
        assert_eq!(farm.run(wrong).await.code, 2, "{wrong:?}");
    }
    farm.finish().await;
}
