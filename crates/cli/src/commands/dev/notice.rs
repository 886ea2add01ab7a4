//! The notice of a farm that has started: its addresses, and what to try.

use std::io::{self, Write};
use std::net::SocketAddr;

use super::farm::Farm;
use super::settings::Settings;
use crate::commands::role;
use crate::output::Columns;

/// Prints the notice. The first line is for programs. The reader may have closed the pipe.
pub(crate) fn show(settings: &Settings, farm: &Farm) {
    let mut text = Vec::new();
    if write(settings, farm, &mut text).is_ok() {
        role::announce(String::from_utf8_lossy(&text).trim_end());
    }
}

fn write(settings: &Settings, farm: &Farm, out: &mut impl Write) -> io::Result<()> {
    let (listen, admin) = (farm.door.http_addr(), farm.door.admin_addr());
    let scheme = role::scheme(settings.door.tls.http.is_some());
    let server = format!("{scheme}://{}", reachable(listen));
    writeln!(out, "dev listening on {scheme}://{listen}, admin on http://{admin}\n")?;

    let mut nodes = Columns::new(&["NODE", ">SLOTS", "PORTS", "AGENT", "LIVELINESS", "ADMIN"]);
    for ((id, agent), config) in farm.agents.iter().zip(&settings.agents) {
        nodes.row([
            id.as_str().into(),
            config.slots.to_string().into(),
            format!("{}-{}", config.ports.start(), config.ports.end()).into(),
            agent.grpc_addr().to_string().into(),
            agent.liveliness_addr().to_string().into(),
            agent.admin_addr().to_string().into(),
        ]);
    }
    nodes.write(out)?;

    writeln!(out)?;
    writeln!(out, "registry  {}", settings.registry.backend())?;
    let simulated = if settings.simulated {
        " (simulated: opens no models; ssr viewers see a moving picture)"
    } else {
        ""
    };
    writeln!(out, "server    {}{simulated}", settings.executable.display())?;

    let flag = if server == "http://127.0.0.1:8080" { String::new() } else { format!(" --server {server}") };
    writeln!(out, "\nTry:")?;
    writeln!(out, "  curl -s -X POST {server}/spawn")?;
    writeln!(out, "  hatchery nodes{flag}")?;
    writeln!(out, "\nCtrl-C ends everything.")
}

/// An address to connect to: one that listens everywhere is reached on loopback.
fn reachable(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(match listen {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    listen
}
