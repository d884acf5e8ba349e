//! `llmasos`: the one binary.
fn main() {}
