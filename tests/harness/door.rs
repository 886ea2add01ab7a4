//! One front door of a farm: a process on ports that it keeps when it is started again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::http::Client;
use crate::metrics::Metrics;
use crate::ports::Block;
use crate::program::Program;
use crate::role::{self, Role};

/// One front door.
#[derive(Debug)]
pub struct Door {
    /// The process.
    pub role: Role,
    /// Where clients and operators are served.
    pub http: Client,
    /// Where figures are.
    pub admin: Client,
    /// Where it answers as the vendor's server does, if it was told to.
    pub hoops: Option<Client>,
    /// What the farm's own clients show.
    pub(crate) operator: Option<&'static str>,
    /// What it runs, in its next life.
    pub program: Program,
    pub(crate) mark: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) _block: Block,
}

impl Door {
    pub(crate) fn new(
        mark: &Path,
        common: &[String],
        index: usize,
        more: &[String],
        unread_log: bool,
        program: Program,
    ) -> Self {
        let block = Block::take();
        // The same in its next life.
        let [listen, admin] = [0, 1].map(|at| format!("127.0.0.1:{}", block.range(2).start() + at));
        let args = ["frontdoor", "--listen", &listen, "--admin-listen", &admin];
        let args = [args.map(str::to_owned).as_slice(), common, more].concat();
        let name = format!("frontdoor-{index}");
        let role = if unread_log {
            Role::start_unread(&name, mark, &args)
        } else {
            Role::start_as(&program, &name, mark, &args)
        };
        let nowhere = Client::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let mark = mark.to_owned();
        let (http, admin, hoops, operator) = (nowhere, nowhere, None, None);
        Self { role, http, admin, hoops, operator, program, mark, args, _block: block }
    }

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

    /// Gives a flag another value, for its next life.
    pub fn set(&mut self, flag: &str, value: &str) {
        match self.args.iter().position(|arg| arg == flag) {
            Some(at) => value.clone_into(&mut self.args[at + 1]),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    pub(crate) async fn comes_up(&mut self) {
        let line = self.role.announcement().await;
        let [http, admin, ref hoops @ ..] = role::clients(&line)[..] else {
            panic!("two addresses were expected: {line}")
        };
        let mut wanted =
            format!("frontdoor listening on http://{}, admin on http://{}", http.addr, admin.addr);
        self.hoops = hoops.first().copied();
        if let Some(hoops) = self.hoops {
            wanted += &format!(", hoops on http://{}", hoops.addr);
        }
        assert_eq!(line, wanted);
        (self.http, self.admin) = (Client { credential: self.operator, ..http }, admin);
    }

    /// Its figures.
    pub async fn metrics(&self) -> Metrics {
        Metrics::of(&self.admin).await
    }
}
