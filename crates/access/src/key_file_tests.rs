use std::sync::Barrier;
use std::thread;

use proptest::prelude::*;

use super::*;
use crate::api_key::NewKey;
use crate::scope::Scope;

fn key() -> ApiKey {
    let scopes = [Scope::Read].into_iter().collect();
    ApiKey::generate(NewKey { scopes, ..NewKey::default() }).unwrap().0
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_byte_order_mark_before_the_first_key_does_not_count() {
    let (one, two) = (key(), key());
    let keys = ApiKeys::parse(&format!("\u{feff}{}\r\n{}\r\n", one.line(), two.line())).unwrap();
    assert_eq!(keys.iter().map(|key| &key.id).collect::<Vec<_>>(), [&one.id, &two.id]);
    assert!(ApiKeys::parse(&format!("\u{feff}# of the web\n{}\n", one.line())).is_ok());
}

#[test]
fn a_bad_line_is_named_with_its_number_and_field() {
    let good = key().line();
    let with = |field: &str, value: &str| {
        let mut object: serde_json::Value = serde_json::from_str(&good).unwrap();
        object[field] = serde_json::from_str(value).unwrap();
        object.to_string()
    };
    for (line, named) in [
        ("{".to_owned(), "EOF"),
        ("[]".to_owned(), "JSON object"),
        ("key".to_owned(), "JSON object"),
        ("{}".to_owned(), "`id`"),
        (format!("{good} {good}"), "nothing more"),
        (with("id", "\"short\""), "id: must be 12"),
        (with("id", "\"ABCDEFGHIJKL\""), "id: must be 12"),
        (with("sha256", "\"00\""), "sha256: must be 64"),
        (with("sha256", "\"hatchery_aaaaaaaaaaaa_secret\""), "sha256: must be 64"),
        (with("scopes", "[]"), "scopes: must name"),
        (with("scopes", "[\"admin\"]"), "scopes: must be spawn, read, operate or metrics, not \"admin\""),
        (with("scopes", "\"hatchery_aaaaaaaaaaaa_secret\""), "scopes: does not fit"),
        (with("spawnsPerMinute", "0"), "spawnsPerMinute"),
        (with("spawnsPerMinute", "-1"), "spawnsPerMinute"),
        (with("concurrentSpawns", "\"9\""), "concurrentSpawns"),
        (with("expiresAt", "\"tomorrow\""), "expiresAt"),
        (with("name", "\"\""), "name: must have 1 to 100"),
        (with("name", "\"a\\u0007\""), "name: must not have control"),
        (with("expriesAt", "\"2026-01-01T00:00:00Z\""), "unknown field `expriesAt`"),
    ] {
        let text = format!("# ours\n\n{}\n{line}\n", key().line());
        let error = ApiKeys::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("line 4: ") && error.contains(named), "{line}: {error}");
        assert!(!error.contains("secret"), "{error}");
    }
    let twice = format!("{good}\n{good}\n");
    let error = ApiKeys::parse(&twice).unwrap_err().to_string();
    assert!(error.starts_with("line 2: id: ") && error.contains("line 1"), "{error}");
}

#[test]
fn keys_come_and_go_and_everything_else_stays_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let (a, b) = (key(), key());
    append(&path, &a).unwrap();
    assert_eq!(mode(&path), 0o600);
    let by_hand = format!("# of the web\n{}\n\n  # of nobody", a.line());
    fs::write(&path, &by_hand).unwrap();
    append(&path, &b).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("{by_hand}\n{}\n", b.line()));
    assert_eq!(ApiKeys::read(&path).unwrap().iter().collect::<Vec<_>>(), [&a, &b]);
    assert_eq!(revoke(&path, &a.id).unwrap(), Some(a.clone()));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("# of the web\n\n  # of nobody\n{}\n", b.line()));
    assert_eq!(revoke(&path, &a.id).unwrap(), None);
    assert_eq!(ApiKeys::read(&path).unwrap().len(), 1);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn an_edit_lets_no_other_user_in_and_follows_links() {
    let directory = tempfile::tempdir().unwrap();
    let [path, link] = ["keys", "link"].map(|name| directory.path().join(name));
    append(&path, &key()).unwrap();
    for (before, after) in [(0o644, 0o640), (0o640, 0o640), (0o400, 0o600), (0o666, 0o640)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(before)).unwrap();
        append(&path, &key()).unwrap();
        assert_eq!(mode(&path), after, "{before:o}");
    }
    std::os::unix::fs::symlink(&path, &link).unwrap();
    append(&link, &key()).unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(ApiKeys::read(&path).unwrap().len(), 6);
}

#[test]
fn a_file_that_is_none_of_keys_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    fs::write(&path, "listen = 80\n").unwrap();
    append(&path, &key()).unwrap_err();
    revoke(&path, &key().id).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), "listen = 80\n");
    let absent = directory.path().join("absent");
    revoke(&absent, &key().id).unwrap_err();
    assert!(!absent.exists());
}

#[test]
fn a_change_is_made_in_its_place_and_leaves_the_rest_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let (a, b) = (key(), key());
    fs::write(&path, format!("# the web\n{}\n\n{}", a.line(), b.line())).unwrap();
    let limit = std::num::NonZeroU32::new(7);
    let changed = change(&path, &a.id, |key| {
        (key.concurrent_spawns, key.name) = (limit, Some("web".to_owned()));
        // Not what a change may change.
        (key.id, key.sha256) = (b.id.clone(), b.sha256);
    });
    let wanted = ApiKey { concurrent_spawns: limit, name: Some("web".to_owned()), ..a };
    assert_eq!(changed.unwrap(), Some(wanted.clone()));
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("# the web\n{}\n\n{}", wanted.line(), b.line()));
    // The last line had no end.
    change(&path, &b.id, |key| key.name = Some("b".to_owned())).unwrap().unwrap();
    assert_eq!(ApiKeys::read(&path).unwrap().len(), 2);
    assert_eq!(change(&path, &key().id, |_| ()).unwrap(), None);
    let before = fs::read_to_string(&path).unwrap();
    change(&path, &b.id, |key| key.name = Some("a\nb".to_owned())).unwrap_err();
    assert_eq!(fs::read_to_string(&path).unwrap(), before, "a bad name is not written");
}

#[test]
fn two_edits_at_once_are_both_done() {
    const EACH: usize = 20;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("keys");
    let start = Barrier::new(4);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                for _ in 0..EACH {
                    append(&path, &key()).unwrap();
                }
            });
        }
    });
    assert_eq!(ApiKeys::read(&path).unwrap().len(), 4 * EACH);
}

proptest! {
    #[test]
    fn no_text_makes_reading_panic(text in "([ -~]{0,60}\n){0,4}|(\\{\"(id|scopes|sha256|name)\":[\\[\\]\"a-z0-9,]{0,30}\\}?\n){0,4}") {
        ApiKeys::parse(&text).ok();
    }
}

#[test]
fn a_damaged_key_file_is_refused_by_its_line_without_a_secret_or_read() {
    let words = ["\"id\":", "\"scopes\":[", "\"sha256\":", "\"expiresAt\":", "null", "\n", "#", "\u{feff}"];
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/keys"), &words, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        match ApiKeys::parse(text) {
            Ok(keys) => {
                let written: Vec<String> = keys.iter().map(ApiKey::line).collect();
                let again = ApiKeys::parse(&written.join("\n")).unwrap();
                assert_eq!(again.iter().map(ApiKey::line).collect::<Vec<_>>(), written);
            }
            Err(error) => assert!(error.to_string().starts_with("line "), "{error}"),
        }
    });
}
