//! The whole system as its users meet it: real processes, real sockets, a Redis per test.
//!
//! See the harness for how a test gets a farm, and for what every farm is checked for at its end.

#![expect(clippy::unwrap_used, reason = "in a test a panic is how something is reported")]

// What a web client is promised.
mod access;
mod behind_load_balancers;
mod capacity;
mod client_library;
mod fails_closed;
mod failure;
mod foreign_pages;
mod greedy;
mod greedy_lists;
mod hangup;
mod hoops;
mod hung_shares;
mod idempotency;
mod input;
mod input_routes;
mod line;
mod relay;
mod relay_attacks;
mod relay_compressed;
mod relay_gone;
mod relay_on_node;
mod routing;
mod signing_in;
mod vendor_viewer;
mod viewers;

// What operators and programs see.
mod commands;
mod crowded_pages;
mod doctor;
mod health_pages;
mod listing;
mod live;
mod live_large;
mod live_protocol;
mod lives;
mod operating;
mod pages;
mod past;
mod past_pages;
mod records;
mod surface;
mod tags;
mod warm;
mod watch;

// What happens below.
mod agent_death;
mod certificate_roles;
mod clocks;
mod command_line;
mod confinement;
mod crash;
mod early_ends;
mod edges;
mod explain;
mod explain_page;
mod exposure;
mod faults;
mod hosts;
mod liveliness;
mod logging;
mod metrics;
mod misbehaviour;
mod names;
mod neighbours;
mod notify_socket;
mod outage;
mod pictures;
mod port_conflicts;
mod process_one;
mod progress;
mod readable;
mod redis_moods;
mod registry_settings;
mod sentinel;
mod shortage;
mod shutdown;
mod sick_nodes;
mod spawn_group;
mod taken_over_ports;
mod taken_over_server;
mod tls;
mod traced_edges;
mod traces;
mod trusted_proxies;
mod under_load;
mod webhooks;

// What the repository promises itself.
mod dependencies;
mod layers;
mod repository;
mod tidy;
