//! The test bed with real nodes, for real.
fn main() {}
