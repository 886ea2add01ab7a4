//! Looks at the server that `--registry` names, without changing it, for `hatchery doctor`.
//!
//! This module asks; [`judge`] says what the answers mean. Every question is one that the shipped users of Redis may ask or may be refused:
//! what a server does not show is left out, and said. Every question is bounded in time. No finding holds a password: texts of errors are
//! those of [`super::seek`] and [`super::url`], which quote none.

mod judge;

use std::collections::HashMap;
use std::path::Path;

use model::Finding;
use model::Timestamp;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd};
use tokio::task::spawn_blocking;

use self::judge::{Facts, Form};
use super::seek::Seeker;
use super::server_error::{code, message};
use super::url::{Guide, Source, unprotected};

/// Settings that [`judge`] looks at.
const SETTINGS: [&str; 4] = ["save", "appendonly", "min-replicas-to-write", "stop-writes-on-bgsave-error"];

/// Looks at the registry of a farm. Changes nothing, and takes a few seconds at the most. `guarded`: whether it is that of a role with TLS of
/// its own, which does not start with an open registry on another machine.
pub async fn examine(url: &str, password_file: Option<&Path>, farm: &str, guarded: bool) -> Vec<Finding> {
    if url == "embedded" {
        return vec![judge::embedded()];
    }
    if let Err(error) = model::id::check_name(farm) {
        return vec![judge::unusable(&format!("invalid --farm: {error}"))];
    }
    let prefix = format!("{{hatchery:{farm}}}");
    let read = {
        let (url, file, prefix) = (url.to_owned(), password_file.map(Path::to_owned), prefix.clone());
        spawn_blocking(move || {
            let file = file.as_deref();
            let target = Source::new(&url, file).read()?;
            let form = match target.guide {
                Guide::Url => Form::Single,
                Guide::Sentinels(_) => Form::Sentinels(target.addresses.len()),
                Guide::Cluster => Form::Cluster,
            };
            Ok::<_, crate::error::OpenError>((
                Seeker::new(&url, file, &prefix)?,
                form,
                unprotected(&url, file)?,
            ))
        })
        .await
    };
    let (seeker, form, open) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(error)) => return vec![judge::unusable(&error.to_string())],
        Err(_) => return vec![judge::unusable("the files of --registry cannot be read")],
    };
    let open = open.map(|open| judge::unprotected(&open.host, open.lacks, guarded));
    let server = match seeker.find().await {
        Ok(server) => server,
        Err(outage) => return [judge::not_reached(&outage, form)].into_iter().chain(open).collect(),
    };
    let mut connection = server.shared.clone();
    let at = format!("{}:{}", server.at.0, server.at.1);
    let info = ask(&mut connection, cmd("INFO").arg("all")).await;
    let (ahead, settings, rights, cluster) = (
        ahead(&mut connection).await,
        settings(&mut connection).await,
        rights(&mut connection, &prefix).await,
        match form {
            Form::Cluster => ask::<String>(&mut connection, cmd("CLUSTER").arg("INFO")).await.ok(),
            Form::Single | Form::Sentinels(_) => None,
        },
    );
    judge::judge(&Facts {
        at,
        form,
        open,
        info: info.map(|text: String| pairs(&text)),
        settings,
        ahead,
        rights,
        cluster: cluster.map(|text| pairs(&text)),
    })
}

/// The lines `name:value` of an answer.
fn pairs(text: &str) -> HashMap<String, String> {
    let pair =
        |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    text.lines().filter_map(pair).collect()
}

async fn ask<T: redis::FromRedisValue>(
    connection: &mut MultiplexedConnection,
    question: &redis::Cmd,
) -> Result<T, String> {
    question.query_async(connection).await.map_err(|error| message(&error))
}

/// How far the server's clock is ahead of this machine's, in milliseconds.
async fn ahead(connection: &mut MultiplexedConnection) -> Option<i64> {
    let before = Timestamp::now().millis();
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(connection).await.ok()?;
    let after = Timestamp::now().millis();
    let theirs = i64::try_from(seconds * 1000 + micros / 1000).ok()?;
    Some(theirs - i64::try_from(before.midpoint(after)).ok()?)
}

/// The settings that the server shows; `None` when this user may not see them.
async fn settings(connection: &mut MultiplexedConnection) -> Option<HashMap<String, String>> {
    let mut question = cmd("CONFIG");
    question.arg("GET").arg(&SETTINGS);
    question.query_async(connection).await.ok()
}

/// Whether the user may read the farm's keys and run scripts on them, as far as that can be tried without changing anything.
/// Nothing, where an answer shows neither.
async fn rights(connection: &mut MultiplexedConnection, prefix: &str) -> Option<Result<(), String>> {
    let key = format!("{prefix}:incarnation");
    // No script has this digest: a user that may run scripts gets NOSCRIPT.
    let none = "0".repeat(40);
    let mut script = cmd("EVALSHA");
    script.arg(none).arg(1).arg(&key);
    let tries: [RedisResult<Value>; 2] =
        [cmd("GET").arg(&key).query_async(connection).await, script.query_async(connection).await];
    let errors: Vec<_> = tries.into_iter().filter_map(Result::err).collect();
    if let Some(error) = errors.iter().find(|error| code(error).as_deref() == Some("NOPERM")) {
        return Some(Err(message(error)));
    }
    errors.iter().all(|error| code(error).as_deref() == Some("NOSCRIPT")).then_some(Ok(()))
}
