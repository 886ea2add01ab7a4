use std::fs::File;

use proptest::prelude::*;
use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::api_key::{ApiKey, Credential, NewKey};
use crate::caller::DenialReason;
use crate::jwt::NewToken;
use crate::key_file;
use crate::scope::Scope;

struct Desk {
    directory: TempDir,
    options: Options,
}

impl Desk {
    /// With a file of API keys and one with a secret.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let [api, jwt] = ["api", "jwt"].map(|name| directory.path().join(name));
        fs::write(&api, "# none yet\n").unwrap();
        fs::write(&jwt, "0123456789abcdef0123456789abcdef\n").unwrap();
        let options = Options { api_keys: Some(api), jwt_keys: vec![jwt], ..Options::default() };
        Self { directory, options }
    }

    fn file(&self) -> &Path {
        self.options.api_keys.as_deref().unwrap()
    }

    fn add(&self) -> (ApiKey, Credential) {
        let scopes = [Scope::Spawn].into_iter().collect();
        let made = ApiKey::generate(NewKey { scopes, ..NewKey::default() }).unwrap();
        key_file::append(self.file(), &made.0).unwrap();
        made
    }

    fn open(&self) -> Access {
        Access::open(&self.options).unwrap().unwrap()
    }

    fn token(&self, lifetime: Duration) -> String {
        let scopes = [Scope::Operate].into_iter().collect();
        NewToken::new("me", scopes, lifetime).sign(&self.options.jwt_keys[0]).unwrap()
    }
}

fn reason(judged: Result<Caller, Denied>) -> DenialReason {
    judged.unwrap_err().reason
}

#[test]
fn without_keys_no_page_asks_who_it_is() {
    assert!(Access::open(&Options::default()).unwrap().is_none());
}

#[test]
fn keys_that_end_soon_are_counted_and_those_that_have_ended_are_not() {
    let desk = Desk::new();
    let day = Duration::from_secs(86_400);
    for expires_at in [
        None,
        Some(Timestamp::now()),
        Some(Timestamp::now().after(day * 3)),
        Some(Timestamp::now().after(day * 30)),
    ] {
        let scopes = [Scope::Spawn].into_iter().collect();
        let (key, _) = ApiKey::generate(NewKey { scopes, expires_at, ..NewKey::default() }).unwrap();
        key_file::append(desk.file(), &key).unwrap();
    }
    let access = desk.open();
    assert_eq!([1, 7, 31].map(|days| access.keys_ending(day * days)), [0, 1, 2]);
}

#[test]
fn both_kinds_of_credential_are_good_side_by_side() {
    let desk = Desk::new();
    let (key, credential) = desk.add();
    let access = desk.open();
    let caller = access.check(credential.expose()).unwrap();
    assert_eq!(caller.owner.as_str(), format!("key:{}", key.id));
    let caller = access.check(&desk.token(Duration::from_secs(60))).unwrap();
    assert_eq!((caller.owner.as_str(), caller.scopes.to_string()), ("jwt:me", "operate".to_owned()));
    for bad in ["", "x", "hatchery_", "a.b.c", "Bearer x", &"a".repeat(MAX_CREDENTIAL + 1)] {
        assert_eq!(reason(access.check(bad)), DenialReason::Malformed, "{bad}");
    }
}

#[test]
fn a_file_that_will_not_do_is_named_with_its_flag() {
    let mut desk = Desk::new();
    fs::write(desk.file(), "\n{}\n").unwrap();
    let error = Access::open(&desk.options).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("invalid --api-keys /") && text.contains("line 2: "), "{text}");
    desk.options.api_keys = None;
    desk.options.jwt_keys.push(desk.directory.path().join("absent"));
    let text = Access::open(&desk.options).unwrap_err().to_string();
    assert!(text.starts_with("invalid --jwt-keys /") && text.contains("absent"), "{text}");
}

#[test]
fn what_changes_in_a_file_counts_and_a_bad_file_changes_nothing_for_a_while() {
    let desk = Desk::new();
    let (first, credential) = desk.add();
    let access = desk.open();
    let (_, second) = desk.add();
    assert_eq!(reason(access.check(second.expose())), DenialReason::UnknownKey);
    access.look(Instant::now());
    access.check(second.expose()).unwrap();
    // Broken by hand, or gone for a moment.
    let good = fs::read(desk.file()).unwrap();
    fs::write(desk.file(), "{").unwrap();
    access.look(Instant::now());
    access.check(credential.expose()).unwrap();
    fs::remove_file(desk.file()).unwrap();
    access.look(Instant::now());
    access.check(credential.expose()).unwrap();
    fs::write(desk.file(), good).unwrap();
    key_file::revoke(desk.file(), &first.id).unwrap().unwrap();
    access.look(Instant::now());
    assert_eq!(reason(access.check(credential.expose())), DenialReason::UnknownKey);
    access.check(second.expose()).unwrap();
    let token = desk.token(Duration::from_secs(60));
    access.check(&token).unwrap();
    fs::write(&desk.options.jwt_keys[0], "another secret that is long enough, is it not").unwrap();
    access.look(Instant::now());
    assert_eq!(reason(access.check(&token)), DenialReason::WrongSignature);
}

#[test]
fn a_file_of_keys_that_is_written_anew_revokes_nothing_in_the_moment_that_it_is_empty() {
    let desk = Desk::new();
    let (_, credential) = desk.add();
    let access = desk.open();
    let good = fs::read(desk.file()).unwrap();
    let now = Instant::now();
    fs::write(desk.file(), "").unwrap();
    access.look(now);
    access.check(credential.expose()).unwrap();
    fs::write(desk.file(), &good).unwrap();
    access.look(now + Duration::from_secs(1));
    access.check(credential.expose()).unwrap();
    fs::write(desk.file(), "").unwrap();
    access.look(now + Duration::from_secs(2));
    access.look(now + Duration::from_secs(3));
    assert_eq!(reason(access.check(credential.expose())), DenialReason::UnknownKey, "it stays empty");
}

#[test]
fn keys_whose_file_is_gone_or_broken_for_a_minute_are_refused_until_it_is_back() {
    let now = Instant::now();
    let at = |seconds| now + Duration::from_secs(seconds);
    for broken in [None, Some("{"), Some("not a key\n")] {
        let desk = Desk::new();
        let (_, credential) = desk.add();
        let access = desk.open();
        let token = desk.token(Duration::from_secs(600));
        let mut changes = access.changes();
        let [api, jwt] = [desk.file().to_owned(), desk.options.jwt_keys[0].clone()];
        let good = [&api, &jwt].map(|file| fs::read(file).unwrap());
        let spoil = |file: &Path| match broken {
            None => fs::remove_file(file).unwrap(),
            Some(text) => fs::write(file, text).unwrap(),
        };
        spoil(&api);
        access.look(at(0));
        spoil(&jwt);
        access.look(at(30));
        assert_eq!(access.unread().len(), 2);
        // Another way of being broken does not begin a new grace.
        fs::write(&api, "{{").unwrap();
        access.look(at(59));
        access.check(credential.expose()).unwrap();
        assert!(access.unread().iter().all(|unread| !unread.refused));
        access.look(at(60));
        assert_eq!(reason(access.check(credential.expose())), DenialReason::UnknownKey, "{broken:?}");
        access.check(&token).unwrap();
        assert!(changes.0.has_changed().unwrap(), "who is connected is judged again");
        access.look(at(90));
        assert_eq!(reason(access.check(&token)), DenialReason::UnknownKey, "{broken:?}");
        let flags: Vec<_> = access.unread().iter().map(|unread| (unread.flag, unread.refused)).collect();
        assert_eq!(flags, [("--api-keys", true), ("--jwt-keys", true)]);
        changes.0.mark_unchanged();
        access.look(at(200));
        assert!(!changes.0.has_changed().unwrap(), "once");
        fs::write(&api, &good[0]).unwrap();
        fs::write(&jwt, &good[1]).unwrap();
        access.look(at(201));
        access.check(credential.expose()).unwrap();
        access.check(&token).unwrap();
        assert_eq!(access.unread(), []);
    }
}

#[test]
fn a_change_of_the_same_length_within_one_second_is_seen() {
    let desk = Desk::new();
    let (_, credential) = desk.add();
    let access = desk.open();
    let text = fs::read_to_string(desk.file()).unwrap();
    let file = File::options().write(true).open(desk.file()).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    fs::write(desk.file(), text.replace("spawn", "write")).unwrap();
    file.set_modified(modified + Duration::from_nanos(1)).unwrap();
    // That is no scope; nothing changes but what was seen.
    access.look(Instant::now());
    access.check(credential.expose()).unwrap();
    assert_eq!(access.0.files.lock().unwrap().api.as_ref().unwrap().seen, FileStamp::at(desk.file()));
}

#[tokio::test]
async fn a_subscriber_gets_a_change_within_two_seconds() {
    let desk = Desk::new();
    let access = desk.open();
    let mut changes = access.changes();
    let keeping = tokio::spawn(access.clone().keep());
    let (_, credential) = desk.add();
    timeout(Duration::from_secs(2), changes.next()).await.expect("heard in time");
    access.check(credential.expose()).unwrap();
    keeping.abort();
}

proptest! {
    #[test]
    fn no_credential_makes_it_panic_and_none_made_up_is_good(
        text in "[ -~]{0,80}|[A-Za-z0-9_-]{0,40}(\\.[A-Za-z0-9_-]{0,40}){0,4}|hatchery_[ -~]{0,60}|\\PC{0,30}"
    ) {
        Desk::new().open().check(&text).unwrap_err();
    }
}
