//! The text of `--help`: the vendor's flags as this program takes them, then the switches for misbehaviour.

use crate::misbehave::KEYS;
use crate::options::{TABLE, Takes};

/// The whole text, ready to be written.
pub(crate) fn text() -> String {
    let options: String = TABLE
        .iter()
        .map(|spec| {
            let name = format!("--{} {}", spec.name, placeholder(spec.takes));
            format!("  {name:<39} {}\n", spec.about)
        })
        .collect();
    let keys: String = KEYS.iter().map(|(key, about)| format!("  {key:<39} {about}\n")).collect();
    format!(
        "ts3d-sc-sim stands in for ts3d_sc_server: same command line, same protocols, no licence, no models.\n\
         \n\
         Usage: ts3d-sc-sim --id ID --sc-port PORT (--license KEY | --license-file FILE) [options]\n\
         \n\
         Options (BOOL is one of on/off, yes/no, 1/0, true/false):\n\
         {options}\n\
         Exit codes: 0 success, 2 command line, 3 internal error, 4 port or TLS, 6 licence, 7 licence file.\n\
         \n\
         Simulator only\n\
         \n\
         Any licence is accepted but `invalid`. Misbehaviour is asked for by environment, SC_SIM_ and the key in\n\
         capitals (SC_SIM_READY_DELAY_MS=3000), or for one server by a session token of the form sim:key=value,key=value\n\
         (--session-token sim:ready_delay_ms=3000,crash_code=9), which wins over the environment. Keys:\n\
         {keys}"
    )
}

fn placeholder(takes: Takes) -> &'static str {
    match takes {
        Takes::Nothing => "",
        Takes::Bool => "BOOL",
        Takes::Port => "PORT",
        Takes::Number => "N",
        Takes::Seconds => "SECONDS",
        Takes::Text => "TEXT",
    }
}
