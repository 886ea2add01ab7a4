//! Start-up and shutdown: the only place that sees every part of a front door.
//!
//! Reading order: `parts` (what there is, and what each part is given), `front_door` (ports and background tasks), `shutdown` (the
//! order of leaving), `simulated` (a front door without ports). Owns nothing but the order. Failure: a port that cannot be had is the error of
//! the start, and nothing was served by then.

mod front_door;
pub(crate) mod parts;
mod shutdown;
mod simulated;

pub use self::front_door::{FrontDoor, StartError};
pub use self::simulated::SimulatedFrontDoor;
