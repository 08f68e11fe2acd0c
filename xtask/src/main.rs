//! Build, demo, test, bench, read.
fn main() {}
