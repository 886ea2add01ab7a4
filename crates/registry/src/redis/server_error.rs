//! Errors of Redis: their text, and what they mean for the connection and the call.

use redis::{ErrorKind, RedisError, ServerErrorKind};

use crate::error::RegistryError;
use crate::outage::{Outage, OutageKind};

/// An error in the server's own words, code first (`NOREPLICAS Not enough good replicas to write.`); any other error as it
/// describes itself.
pub(super) fn message(error: &RedisError) -> String {
    match error.clone().into_server_errors().as_deref() {
        Some([(_, first), ..]) => {
            format!("{} {}", first.code(), first.details().unwrap_or_default()).trim_end().to_owned()
        }
        _ => error.to_string(),
    }
}

/// The code of a server's error: its first word. `None` for an error of the client or the connection.
pub(super) fn code(error: &RedisError) -> Option<String> {
    let errors = error.clone().into_server_errors()?;
    errors.first().map(|(_, first)| first.code().to_owned())
}

/// The kind of outage that an error shows.
pub(super) fn outage_kind(error: &RedisError) -> OutageKind {
    match code(error) {
        Some(code) => OutageKind::of_code(&code),
        None if error.is_connection_refusal() => OutageKind::ConnectionRefused,
        None if error.is_timeout() => OutageKind::NoAnswer,
        // The client hides the TLS library's error behind its text.
        None if error.to_string().contains("certificate") => OutageKind::Certificate,
        None => OutageKind::Other,
    }
}

/// Whether another server of the cluster has the farm. Nothing was done.
pub(super) fn is_elsewhere(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

/// Whether a key holds something else than it should, which says nothing about the server.
pub(super) fn is_damage(error: &RedisError) -> bool {
    code(error).is_some_and(|code| code == "WRONGTYPE")
}

/// Whether the connection cannot be used any more: broken, to the wrong server, or with the wrong credential.
///
/// `LOADING`, `BUSY`, `OOM` and `MISCONF` are not among them: a new connection would meet the same.
pub(super) fn spoils_connection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
        // A master that is cut off from its replicas may have been replaced; `NOAUTH` wants the credential again.
        _ => code(error).is_some_and(|code| {
            ["CLUSTERDOWN", "MASTERDOWN", "MOVED", "READONLY", "NOREPLICAS", "NOAUTH"]
                .contains(&code.as_str())
        }),
    }
}

/// The registry's error for one of Redis: away, or an answer that this version does not understand.
///
/// `ASK` and `TRYAGAIN` mean that the farm's slot is being moved to another node and that a part of its keys has arrived.
/// That counts as away: a script would see half a farm on either side.
pub(super) fn registry_error(call: &'static str, error: &RedisError) -> RegistryError {
    let defect = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Parse
    );
    if defect {
        RegistryError::Unexpected { call, what: message(error) }
    } else {
        RegistryError::Away(Outage::new(outage_kind(error), message(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client makes of these bytes from a server.
    fn error(line: &str) -> RedisError {
        match redis::parse_redis_value(format!("-{line}\r\n").as_bytes()) {
            Ok(redis::Value::ServerError(error)) => error.into(),
            other => panic!("{line} is no error: {other:?}"),
        }
    }

    #[test]
    fn every_refusal_of_a_server_counts_as_away_and_keeps_its_word() {
        for (line, spoils) in [
            ("LOADING Redis is loading the dataset in memory", false),
            ("BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.", false),
            ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", true),
            ("CLUSTERDOWN The cluster is down", true),
            ("NOREPLICAS Not enough good replicas to write.", true),
            ("OOM command not allowed when used memory > 'maxmemory'.", false),
            ("READONLY You can't write against a read only replica.", true),
            (
                "MISCONF Redis is configured to save RDB snapshots, but it is unable to persist on disk.",
                false,
            ),
            ("NOAUTH Authentication required.", true),
            ("WRONGPASS invalid username-password pair or user is disabled.", false),
            ("NOPERM User x has no permissions to run the 'ping' command", false),
            ("TRYAGAIN Multiple keys request during rehashing of slot", false),
        ] {
            let error = error(line);
            let RegistryError::Away(outage) = registry_error("call", &error) else {
                panic!("{line} is no outage")
            };
            assert_eq!(outage.to_string(), line);
            assert_eq!(outage.kind().outward(), line.split(' ').next(), "{line}");
            assert_eq!(spoils_connection(&error), spoils, "{line}");
        }
        let defect = error("ERR unknown command");
        assert!(matches!(registry_error("call", &defect), RegistryError::Unexpected { .. }));
        assert!(!spoils_connection(&defect));
    }

    #[test]
    fn a_failed_connection_shows_its_kind() {
        let io = |kind, text: &str| RedisError::from(std::io::Error::new(kind, text.to_owned()));
        use std::io::ErrorKind as Io;
        for (error, kind) in [
            (io(Io::ConnectionRefused, "Connection refused"), OutageKind::ConnectionRefused),
            (io(Io::TimedOut, "timed out"), OutageKind::NoAnswer),
            (
                io(
                    Io::InvalidData,
                    "invalid peer certificate: certificate not valid for name \"redis.internal\"",
                ),
                OutageKind::Certificate,
            ),
            (io(Io::BrokenPipe, "broken pipe"), OutageKind::Other),
            (error("MOVED 3999 10.0.0.9:6381"), OutageKind::Other),
        ] {
            assert_eq!(outage_kind(&error), kind, "{error}");
        }
    }
}
