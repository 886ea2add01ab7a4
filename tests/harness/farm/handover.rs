//! A front door that another process follows, on the same ports.

use rustix::process::Signal;
use tokio::net::TcpStream;

use super::Door;
use crate::program::Program;
use crate::role::Role;
use crate::wait::{Look, PATIENCE, until};

impl Door {
    /// Starts it again, on the same ports, after it has ended or was killed.
    pub async fn restart(&mut self) {
        self.restart_at(0).await;
    }

    /// The same with a clock that is wrong by so many seconds.
    pub async fn restart_at(&mut self, clock: i64) {
        self.role.kill();
        let program = Program { clock, ..self.program.clone() };
        self.role = Role::start_as(&program, &self.role.name, &self.mark, &self.args);
        self.comes_up().await;
    }

    /// Tells it to leave and starts another process on the same ports at once. Returns the old one, which may still be there.
    pub async fn replace(&mut self) -> Role {
        self.role.signal(Signal::TERM);
        until("its port is free", PATIENCE, async || {
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
