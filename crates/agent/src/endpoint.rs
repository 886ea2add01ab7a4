//! The form of the endpoints that viewers connect to: a WebSocket URL with placeholders. A form is checked when it is read, so an
//! endpoint made of it is always a URL.

use std::fmt;
use std::str::FromStr;

use model::{NodeId, SpawnId};

use crate::secret::Secret;

/// A WebSocket URL with placeholders `{host}`, `{port}`, `{node}`, `{id}` and `{token}`, what a relay knows the spawn's viewer by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointForm(String);

impl Default for EndpointForm {
    fn default() -> Self {
        Self("ws://{host}:{port}".to_owned())
    }
}

impl FromStr for EndpointForm {
    type Err = String;

    fn from_str(form: &str) -> Result<Self, String> {
        if !form.starts_with("ws://") && !form.starts_with("wss://") {
            return Err(format!("it must begin with ws:// or wss://, not {form:?}"));
        }
        if form.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(format!("expected visible ASCII characters, got {form:?}"));
        }
        if form.contains('#') {
            return Err(format!("it must not have a fragment, which no viewer connects with: {form:?}"));
        }
        let mut rest = form;
        while let Some((before, after)) = rest.split_once('{') {
            if before.contains('}') {
                break;
            }
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("it has a {{ without }} in {form:?}"));
            };
            if !matches!(name, "host" | "port" | "node" | "id" | "token") {
                return Err(format!(
                    "may use the placeholders {{host}}, {{port}}, {{node}}, {{id}} and {{token}}, not {{{name}}}"
                ));
            }
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("it has a }} without {{ in {form:?}"));
        }
        if !form.contains("{port}") && !form.contains("{id}") {
            return Err(format!(
                "it must contain {{port}} or {{id}}, or all spawns would have the same endpoint: {form:?}"
            ));
        }
        Ok(Self(form.to_owned()))
    }
}

impl fmt::Display for EndpointForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl EndpointForm {
    /// With what is the same for all spawns of a node filled in.
    #[must_use]
    pub(crate) fn on(&self, node: &NodeId, host: &str) -> Self {
        Self(self.0.replace("{host}", host).replace("{node}", node.as_str()))
    }

    /// The endpoint of one spawn. One that an earlier release started has no token.
    #[must_use]
    pub(crate) fn of(&self, id: SpawnId, port: u16, token: Option<&Secret>) -> String {
        let mut endpoint = String::with_capacity(self.0.len() + 100);
        let mut rest = self.0.as_str();
        while let Some((before, after)) = rest.split_once('{') {
            endpoint.push_str(before);
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            match name {
                "port" => endpoint.push_str(&port.to_string()),
                "id" => endpoint.push_str(&id.to_string()),
                "token" => endpoint.push_str(token.map(Secret::reveal).unwrap_or_default()),
                _ => {}
            }
            rest = after;
        }
        endpoint.push_str(rest);
        endpoint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_in() {
        let node = "node-a".parse().unwrap();
        let (id, token) = (SpawnId::mint(), Secret::mint());
        for (form, want) in [
            ("ws://{host}:{port}", "ws://10.0.0.7:55001".to_owned()),
            ("wss://{node}.farm.example/{port}", "wss://node-a.farm.example/55001".to_owned()),
            ("wss://{host}/s/{id}", format!("wss://10.0.0.7/s/{id}")),
            (
                "wss://{host}/s/{node}/{id}/{token}",
                format!("wss://10.0.0.7/s/node-a/{id}/{}", token.reveal()),
            ),
        ] {
            let form: EndpointForm = form.parse().unwrap();
            assert_eq!(form.on(&node, "10.0.0.7").of(id, 55001, Some(&token)), want);
        }
    }

    #[test]
    fn a_form_that_could_not_work_says_why() {
        for (form, why) in [
            ("http://{host}:{port}", "ws://"),
            ("ws://{host}", "{port} or {id}"),
            ("ws://{hots}:{port}", "{hots}"),
            ("ws://{host:{port}", "{host:{port}"),
            ("ws://{host}:{port", "without }"),
            ("ws://host}:{port}", "without {"),
            ("ws://{host}:{port} ", "visible"),
            ("ws://{host}:{port}/#a", "fragment"),
        ] {
            let error = form.parse::<EndpointForm>().unwrap_err();
            assert!(error.contains(why), "{form}: {error}");
        }
    }
}
