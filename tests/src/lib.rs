//! Network namespaces, guests, traffic and the running binary: what the end-to-end tests and
//! `cargo xtask demo` share.
