//! Making credentials: they come out once, on standard output, and files hold no more than their hashes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::process::run;

#[test]
fn a_new_key_is_added_to_its_file_and_its_credential_printed_once() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let path = file.to_str().unwrap();
    let new = ["key", "new", "--name", "web", "--scope", "spawn,read", "--spawns-per-minute", "60"];
    let ran = run(&[&new[..], &["--concurrent-spawns", "20", "--expires", "90d", "--file", path]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    let credential = ran.stdout.trim_end().to_owned();
    let (id, secret) = credential.strip_prefix("hatchery_").unwrap().split_once('_').unwrap();
    assert_eq!((id.len(), secret.len(), ran.stdout.lines().count()), (12, 43, 1));
    assert!(ran.stderr.contains(id) && !ran.stderr.contains(secret), "{ran:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(secret), "{text}");
    let line: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&line["id"], &line["name"], &line["spawnsPerMinute"]),
        (&id.into(), &"web".into(), &60.into())
    );
    assert_eq!(line["scopes"], serde_json::json!(["spawn", "read"]));

    let listed = run(&["key", "list", "--file", path]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (0, 2), "{listed:?}");
    let row = listed.stdout.lines().nth(1).unwrap();
    assert!(row.starts_with(id) && row.contains("spawn,read") && row.contains(" 60"), "{row}");

    let revoked = run(&["key", "revoke", id, "--file", path]);
    assert_eq!((revoked.code, revoked.stdout), (0, format!("{id}  revoked\n")));
    let again = run(&["key", "revoke", id, "--file", path]);
    assert_eq!((again.code, again.stdout.as_str()), (3, ""), "{again:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
}

#[test]
fn a_key_is_changed_and_its_credential_stays_good() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let path = file.to_str().unwrap();
    let made = run(&[
        "key",
        "new",
        "--scope",
        "spawn",
        "--concurrent-spawns",
        "2",
        "--expires",
        "1d",
        "--file",
        path,
    ]);
    let id = made.stdout.split('_').nth(1).unwrap().to_owned();
    let line = || serde_json::from_str::<Value>(&fs::read_to_string(&file).unwrap()).unwrap();
    let before = line();
    let set = |flags: &[&str]| run(&[&["key", "set", id.as_str(), "--file", path], flags].concat());
    let flags = [
        "--name",
        "web shop",
        "--scope",
        "operate,spawn",
        "--spawns-per-minute",
        "60",
        "--concurrent-spawns",
        "none",
    ];
    let changed = set(&flags);
    assert_eq!((changed.code, changed.stdout), (0, format!("{id}  changed\n")), "{}", changed.stderr);
    let after = line();
    assert_eq!(
        (&after["name"], &after["scopes"], &after["spawnsPerMinute"], after.get("concurrentSpawns")),
        (&"web shop".into(), &serde_json::json!(["spawn", "operate"]), &60.into(), None)
    );
    for kept in ["id", "sha256", "createdAt", "expiresAt"] {
        assert_eq!(after[kept], before[kept], "{kept}");
    }
    assert_eq!(set(&["--name", "none", "--expires", "none"]).code, 0);
    assert_eq!((line().get("name"), line().get("expiresAt")), (None, None));
    assert_eq!(run(&["key", "set", "abcdefghijkl", "--name", "x", "--file", path]).code, 3);
    for wrong in
        [&[][..], &["--concurrent-spawns", "0"], &["--expires", "soon"], &["--name", ""], &["--scope", "all"]]
    {
        let ran = set(wrong);
        assert_eq!(ran.code, 2, "{wrong:?}: {ran:?}");
    }
}

#[test]
fn without_a_file_the_line_for_it_goes_to_standard_error() {
    let ran = run(&["key", "new", "--scope", "operate"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 1), "{ran:?}");
    let line: Value = serde_json::from_str(ran.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(line["scopes"], serde_json::json!(["operate"]));
    let id = line["id"].as_str().unwrap();
    assert!(ran.stdout.starts_with(&format!("hatchery_{id}_")), "{ran:?}");
}

#[test]
fn a_file_that_is_none_of_keys_is_named_with_the_line_that_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    fs::write(&file, "# ours\n{\"id\":7}\n").unwrap();
    let path = file.to_str().unwrap();
    for args in [&["key", "list"][..], &["key", "new"], &["key", "revoke", "abcdefghijkl"]] {
        let ran = run(&[args, &["--file", path]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(ran.stderr.contains("--file") && ran.stderr.contains("line 2: id"), "{ran:?}");
    }
    for args in [
        &["key", "new", "--scope", "admin"][..],
        &["key", "new", "--expires", "0s"],
        &["key", "new", "--name", ""],
        &["key", "new", "--spawns-per-minute", "0"],
        &["key", "revoke", "short", "--file", path],
        &["key"],
        &["--json", "key", "list", "--file", path],
    ] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{args:?}: {ran:?}");
    }
}

#[test]
fn a_token_is_printed_and_a_secret_that_is_too_short_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("secret");
    fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
    let path = file.to_str().unwrap();
    let ran = run(&[
        "token",
        "new",
        "--key-file",
        path,
        "--subject",
        "ci",
        "--scope",
        "spawn,operate",
        "--for",
        "1h",
    ]);
    assert_eq!((ran.code, ran.stdout.trim_end().split('.').count()), (0, 3), "{ran:?}");
    fs::write(&file, "hunter2").unwrap();
    let short = run(&["token", "new", "--key-file", path]);
    assert_eq!((short.code, short.stdout.as_str()), (2, ""));
    assert!(short.stderr.contains("--key-file") && short.stderr.contains("32 bytes"), "{short:?}");
    assert!(!short.stderr.contains("hunter2"), "{short:?}");
    let nobody = run(&["token", "new", "--key-file", path, "--subject", "a b"]);
    assert!(nobody.code == 2 && nobody.stderr.contains("--subject"), "{nobody:?}");
}
