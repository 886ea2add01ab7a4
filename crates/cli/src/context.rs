//! What a command that talks to a front door works with: a client, and whether a program reads the output. Made once for each
//! command; it connects with the first call.

use std::sync::Arc;
use std::time::Duration;

use crate::args::{Before, ClientFlags};
use crate::client::Client;
use crate::connector::Connector;
use crate::credential::Credential;
use crate::failure::Failure;
use crate::standard_error::say;

/// How long an answer may take that needs no process to start.
pub(crate) const ANSWER: Duration = Duration::from_secs(10);

/// What a command that talks to a front door works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    /// Whether a program reads the output.
    pub(crate) json: bool,
}

impl Context {
    /// Reads the flags and the environment; connects when the command makes its first call.
    ///
    /// # Errors
    /// The address, the credential or the CA cannot be used.
    pub(crate) fn new(before: &Before, flags: &ClientFlags, timeout: Duration) -> Result<Self, Failure> {
        let server = flags.server(before)?;
        let credential = Arc::new(Credential::find(flags.token_file(before))?);
        let connector = Connector::new(flags.ca(before))?;
        if credential.is_some() && server.is_exposed() {
            say(&format!(
                "warning: the token goes to {server} unencrypted; use https:// so that it cannot be read on the way"
            ));
        }
        let client = Client::new(&server, connector, credential, flags.timeout.unwrap_or(timeout))?;
        Ok(Self { client, json: flags.json || before.json })
    }
}
