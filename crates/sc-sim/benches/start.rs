//! How long a server takes from the start of its process to its `ready`, seen from the receiver.
//!
//! `cargo bench -p sc-sim` prints the distribution over 500 starts; `cargo bench -p sc-sim -- 2000` over 2000.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let starts = std::env::args().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(500);
    let receiver = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut times = Vec::with_capacity(starts);
    for _ in 0..starts {
        times.push(start_to_ready(&receiver)?);
    }
    times.sort();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    writeln!(
        io::stdout(),
        "start to ready over {starts} starts: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(90),
        at(99),
        at(100)
    )?;
    Ok(())
}

fn start_to_ready(receiver: &TcpListener) -> Result<Duration, Box<dyn Error>> {
    let endpoint = format!("http://{}", receiver.local_addr()?);
    let port = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ts3d-sc-sim"));
    command
        .env_clear()
        .args(["--id", "bench", "--license", "any"])
        .args(["--liveliness-endpoint", &endpoint])
        .args(["--sc-port", &port.to_string()])
        .stdout(Stdio::null());

    let started = Instant::now();
    let mut server = command.spawn()?;
    let (mut stream, _) = receiver.accept()?;
    let mut request = [0; 512];
    let n = stream.read(&mut request)?;
    let took = started.elapsed();

    server.kill()?;
    server.wait()?;
    if String::from_utf8_lossy(&request[..n]).contains("liveliness=ready") {
        Ok(took)
    } else {
        Err("the first post is not ready".into())
    }
}
