//! The LANCE server.
fn main() {}
