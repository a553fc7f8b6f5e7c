//! The `colo-xdp` binary.
fn main() {}
