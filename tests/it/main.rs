//! The whole system as its users meet it. See the harness for how a test gets a farm.
fn main() {}
