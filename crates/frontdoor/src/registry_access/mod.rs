pub(crate) mod circuit;
pub(crate) mod cleanup;
pub(crate) mod desired_state;
pub(crate) mod follower;
pub(crate) mod refresher;
pub(crate) mod snapshot;
pub(crate) mod sweeper;
