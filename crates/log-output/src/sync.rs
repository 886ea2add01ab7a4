//! What the buffer is built on; a test puts the types of loom in their place.

pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};
