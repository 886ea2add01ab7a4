//! What the count of waiting spans is built on; a test puts the types of loom in their place.

pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
