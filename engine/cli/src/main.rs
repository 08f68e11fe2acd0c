//! The engine natively.
fn main() {}
