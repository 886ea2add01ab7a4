//! The simulator as a process, seen from outside: its command line, its liveliness posts, its WebSocket, its end.

mod command_line;
mod liveliness;
mod misbehaviour;
mod process;
mod receiver;
mod seen;
mod viewer;
mod viewers;
