pub(crate) mod door;
mod shutdown;

pub use door::{FrontDoor, StartError};
