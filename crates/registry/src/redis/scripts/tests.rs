//! Scripts are held against Redis' own compiler: a name that no part of a script defines is compiled as a global variable, and fails only
//! when its line runs.

use std::collections::BTreeSet;
use std::process::{Child, Command, Stdio};

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use super::TEXTS;

/// Instructions of Lua 5.1 that name a global variable (`lopcodes.h`).
const GET_GLOBAL: u32 = 5;
const SET_GLOBAL: u32 = 7;

/// What `string.dump` gives of a function (`ldump.c` of Lua 5.1), on a machine of 64 bits.
struct Dump<'a>(&'a [u8]);

impl<'a> Dump<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, left) = self.0.split_at(count);
        self.0 = left;
        taken
    }

    fn int(&mut self) -> u32 {
        u32::from_ne_bytes(self.take(4).try_into().unwrap())
    }

    fn string(&mut self) -> String {
        let length = u64::from_ne_bytes(self.take(8).try_into().unwrap());
        let bytes = self.take(usize::try_from(length).unwrap());
        String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
    }

    /// Adds the global variables that a function and those in it name.
    fn function(&mut self, globals: &mut BTreeSet<String>) {
        self.string();
        // The first and the last line, and counts of upvalues, parameters and registers.
        self.take(4 + 4 + 4);
        let code: Vec<u32> = (0..self.int()).map(|_| self.int()).collect();
        let constants: Vec<Option<String>> = (0..self.int()).map(|_| self.constant()).collect();
        for instruction in code {
            if let GET_GLOBAL | SET_GLOBAL = instruction & 0x3f {
                let at = usize::try_from(instruction >> 14).unwrap();
                globals.insert(constants[at].clone().expect("a name"));
            }
        }
        for _ in 0..self.int() {
            self.function(globals);
        }
        let lines = usize::try_from(self.int()).unwrap();
        self.take(lines * 4);
        for _ in 0..self.int() {
            self.string();
            self.take(4 + 4);
        }
        for _ in 0..self.int() {
            self.string();
        }
    }

    fn constant(&mut self) -> Option<String> {
        match self.take(1)[0] {
            0 => {}
            1 => drop(self.take(1)),
            3 => drop(self.take(8)),
            4 => return Some(self.string()),
            other => panic!("a constant of type {other}"),
        }
        None
    }
}

/// A Redis that ends with its owner.
struct Server(Child, TempDir);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Server {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(dir.path().join("socket"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed (apt-get install redis-server)");
        Self(child, dir)
    }

    async fn connect(&self) -> MultiplexedConnection {
        let url = format!("redis+unix://{}", self.1.path().join("socket").display());
        let began = Instant::now();
        loop {
            let client = redis::Client::open(url.as_str()).unwrap();
            match client.get_multiplexed_async_connection().await {
                Ok(connection) => return connection,
                Err(error) => assert!(began.elapsed() < Duration::from_secs(20), "{error}"),
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

async fn globals(connection: &mut MultiplexedConnection, text: &str) -> BTreeSet<String> {
    let mut call = redis::cmd("EVAL");
    call.arg("return string.dump(assert(loadstring(ARGV[1])))").arg(0).arg(text);
    let dump: Vec<u8> = call.query_async(connection).await.expect("it compiles");
    let mut dump = Dump(&dump);
    let header = dump.take(12);
    // Version 5.1, its own format; integers of 4 bytes, sizes of 8, instructions of 4, numbers of 8.
    assert_eq!(header, [b"\x1bLua\x51\0", &header[6..7], &[4, 8, 4, 8, 0]].concat());
    let mut names = BTreeSet::new();
    dump.function(&mut names);
    assert!(dump.0.is_empty(), "all of it was read");
    names
}

#[tokio::test]
async fn every_script_has_all_parts_whose_names_it_uses() {
    let server = Server::start();
    let mut connection = server.connect().await;
    let mut call = redis::cmd("EVAL");
    call.arg("local names = {} for name in pairs(_G) do names[#names + 1] = name end return names").arg(0);
    let known: BTreeSet<String> = call.query_async(&mut connection).await.unwrap();
    assert!(known.contains("redis") && known.contains("KEYS"), "{known:?}");
    let of_a_gap = globals(&mut connection, "local function a() return b(KEYS[1]) end return a").await;
    assert_eq!(of_a_gap.difference(&known).collect::<Vec<_>>(), ["b"]);
    for (name, text) in TEXTS {
        let used = globals(&mut connection, text).await;
        let missing: Vec<&String> = used.difference(&known).collect();
        assert!(missing.is_empty(), "the script {name} has no part that defines {missing:?}");
    }
}
