//! Which tests can run here.

use std::env;

/// Whether privileged tests can run in this process.
///
/// Says on stderr what is skipped when they cannot: a skip is not a pass.
///
/// # Panics
/// Without root under `CI=true`, where nothing may be skipped.
#[must_use]
#[allow(clippy::print_stderr, reason = "a skip must be seen by the person who runs the tests")]
pub fn can_run(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(env::var("CI").as_deref() != Ok("true"), "{test} needs root, and CI skips nothing");
    eprintln!("SKIPPED {test}: needs root (network namespaces, XDP)");
    false
}

/// Leaves the calling test, as skipped, unless privileged tests can run.
#[macro_export]
macro_rules! needs_root {
    () => {
        if !$crate::privilege::can_run(module_path!()) {
            return Ok(());
        }
    };
}
