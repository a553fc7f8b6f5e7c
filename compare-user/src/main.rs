//! The `colo-xdp` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    compare_user::cli::main()
}
