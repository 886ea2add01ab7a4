//! Where a front door listens: what it was told, and what it says itself.

use super::Door;
use crate::http::Client;
use crate::role;

impl Door {
    /// Gives a flag another value, for its next life.
    pub fn set(&mut self, flag: &str, value: &str) {
        match self.args.iter().position(|arg| arg == flag) {
            Some(at) => value.clone_into(&mut self.args[at + 1]),
            None => self.args.extend([flag.to_owned(), value.to_owned()]),
        }
    }

    pub(super) async fn comes_up(&mut self) {
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
}
