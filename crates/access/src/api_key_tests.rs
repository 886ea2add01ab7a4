use proptest::prelude::*;

use super::*;
use crate::scope::Scope;

fn made() -> (ApiKey, Credential) {
    let scopes = [Scope::Spawn, Scope::Read].into_iter().collect();
    ApiKey::generate(NewKey { name: Some("web".to_owned()), scopes, ..NewKey::default() }).unwrap()
}

fn judged(credential: &str, key: &ApiKey) -> Result<Caller, DenialReason> {
    let find = |id: &str| (id == key.id.as_str()).then_some(key);
    check(credential, find, CallerLimits::default(), Timestamp::now()).map_err(|denied| denied.reason)
}

#[test]
fn a_credential_opens_its_own_key_and_no_other() {
    let ((key, credential), (other, _)) = (made(), made());
    assert_ne!(key.id, other.id);
    let caller = judged(credential.expose(), &key).unwrap();
    assert_eq!(caller.owner.as_str(), format!("key:{}", key.id));
    assert_eq!((caller.scopes, caller.expires), (key.scopes, None));
    assert_eq!(judged(credential.expose(), &other), Err(DenialReason::UnknownKey));
    let stolen = credential.expose().replace(key.id.as_str(), other.id.as_str());
    assert_eq!(judged(&stolen, &other), Err(DenialReason::WrongSecret));
}

#[test]
fn a_key_that_has_expired_opens_nothing_and_says_so_only_to_its_bearer() {
    let (mut key, credential) = made();
    key.expires_at = Some(Timestamp::now());
    assert_eq!(judged(credential.expose(), &key), Err(DenialReason::Expired));
    let wrong = format!("{}A", &credential.expose()[..credential.expose().len() - 1]);
    if wrong != credential.expose() {
        assert_eq!(judged(&wrong, &key), Err(DenialReason::WrongSecret));
    }
    key.expires_at = Some(Timestamp::now().after(std::time::Duration::from_secs(60)));
    assert_eq!(judged(credential.expose(), &key).unwrap().expires, key.expires_at);
}

#[test]
fn what_the_key_says_of_limits_comes_before_what_the_front_door_says() {
    let (mut key, credential) = made();
    let five = NonZeroU32::new(5);
    let defaults = CallerLimits { per_minute: NonZeroU32::new(60), concurrent: NonZeroU32::new(9) };
    key.concurrent_spawns = five;
    let caller = check(credential.expose(), |_| Some(&key), defaults, Timestamp::now()).unwrap();
    assert_eq!(caller.limits, CallerLimits { per_minute: defaults.per_minute, concurrent: five });
}

#[test]
fn a_credential_has_the_form_that_scanners_look_for_and_is_in_no_debug_output() {
    let (key, credential) = made();
    let text = credential.expose();
    let secret = text.strip_prefix(&format!("hatchery_{}_", key.id)).unwrap();
    assert_eq!((key.id.as_str().len(), secret.len()), (12, 43));
    assert_eq!(URL_SAFE_NO_PAD.decode(secret).unwrap().len(), 32);
    for shown in [format!("{credential:?}"), format!("{key:?}"), key.line()] {
        assert!(!shown.contains(secret), "{shown}");
    }
    assert!(!format!("{key:?}").contains(&key.line()[30..90]), "not even its hash");
}

#[test]
fn a_line_is_read_as_it_is_written() {
    let (mut key, _) = made();
    key.spawns_per_minute = NonZeroU32::new(60);
    key.expires_at = key.created_at;
    assert_eq!(serde_json::from_str::<ApiKey>(&key.line()).unwrap(), key);
}

proptest! {
    #[test]
    fn no_other_text_opens_a_key(text in "(hatchery_)?[a-z0-9_]{0,14}_?[A-Za-z0-9_-]{0,46}") {
        let (key, _) = made();
        judged(&text, &key).unwrap_err();
    }

    #[test]
    fn a_credential_with_one_change_opens_nothing(at in 0_usize..64, new in "[ -~]") {
        let (key, credential) = made();
        let text = credential.expose();
        let changed = format!("{}{new}{}", &text[..at], &text[at + 1..]);
        prop_assume!(changed != text);
        judged(&changed, &key).unwrap_err();
        judged(&text[..at], &key).unwrap_err();
    }
}
