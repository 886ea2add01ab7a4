//! A front door that is replaced by another process on the same ports.

use rustix::process::Signal;
use tokio::net::TcpStream;

use super::Door;
use crate::role::Role;
use crate::wait::{Look, TIMEOUT, until};

impl Door {
    /// Tells it to leave and starts another process on the same ports at once. Returns the old one, which may still be there.
    pub async fn replace(&mut self) -> Role {
        self.role.signal(Signal::TERM);
        until("its port is free", TIMEOUT, async || {
            let refused = TcpStream::connect(self.http.addr).await.is_err()
                && TcpStream::connect(self.admin.addr).await.is_err();
            Look::when(refused, || "it listens".to_owned())
        })
        .await;
        let next = Role::start_as(&self.program, &format!("{}-next", self.role.name), &self.mark, &self.args);
        let old = std::mem::replace(&mut self.role, next);
        self.comes_up().await;
        old
    }
}
