//! `cargo xtask`: set-up, builds, demo, tests, fuzzing and benchmarks.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command-line tool: text on the terminal is what it makes"
)]

mod bench;
mod build_ebpf;
mod command;
mod demo;
mod fuzz;
mod median;
mod mutate;
mod release;
mod setup;
mod simulate;
mod soak;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A build, a test or a benchmark failed.
const FAILED: u8 = 1;
// 2 is clap's, for usage.
/// The machine lacks something that may not be installed from here; the commands were printed.
const MACHINE_LACKS: u8 = 3;
/// Setup tried to install something and it failed.
const SETUP_FAILED: u8 = 4;

const EXIT_CODES: &str = "\
Exit codes:
  0  success
  1  a build, a test or a benchmark failed
  2  wrong usage
  3  the machine lacks something that may not be installed from here;
     the commands that install it were printed
  4  an installation was tried and failed";

/// Set-up, builds, demo, tests, fuzzing and benchmarks of colo-xdp.
///
/// Every command first makes sure that the machine has what it takes (see `setup`).
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXIT_CODES)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Find what the machine lacks for building and testing, and install it or say how
    ///
    /// As root on a machine with apt-get, installs the missing packages and builds bpf-linker, and
    /// prints each command before it runs it. Otherwise prints the commands and exits with 3.
    #[command(after_help = "Example:\n  cargo xtask setup")]
    Setup,
    /// Compile the XDP programs to target/bpf/colo-xdp-ebpf
    ///
    /// Uses rustup's nightly with rust-src, or the system's rustc with its packaged sources
    /// (Debian 12: rustc-web, rust-web-src), whichever has a bpf-linker that fits, and says which.
    /// The programs are always optimised: the verifier rejects unoptimised code.
    #[command(
        after_help = "Examples:\n  cargo xtask build-ebpf\n  cargo xtask build-ebpf --release"
    )]
    BuildEbpf {
        /// Strip source-line information from the object; code and BTF are the same
        #[arg(long)]
        release: bool,
    },
    /// Show in less than a minute what colo-xdp is for
    ///
    /// As root, in network namespaces with the real binary, everything removed afterwards: two
    /// guests that are compared frame by frame, then two hosts with ordinary servers, of which
    /// first the one and then the other is lost. Without root: the first act on two capture files.
    #[command(after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --seconds 5 --json")]
    Demo(demo::Options),
    /// Check formatting and lints, and run every test
    Test(test::Options),
    /// Run the tests of the kernel side on Debian's kernel, in a virtual machine
    ///
    /// The machine is emulated, and made of nothing but the kernel, the tests and their libraries.
    Vm(vm::Options),
    /// Give the code that reads input from outside inputs that nobody thought of
    ///
    /// Builds the fuzz targets of tests/fuzz with libFuzzer and AddressSanitizer and runs them. What
    /// makes one fail is kept as a file, and the command that replays it is printed.
    Fuzz(fuzz::Options),
    /// Simulate the comparator: model guests, a network in which things go wrong, and an oracle
    ///
    /// Each seed is a scenario of its own and the same run on every machine. A seed in which a rule is
    /// broken is printed with the command that runs it again, and made smaller.
    #[command(after_help = simulate::EXAMPLES)]
    Simulate(simulate::Options),
    /// Change the comparator in small wrong ways and see that the simulator catches each
    Mutate(mutate::Options),
    /// Measure
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run the comparator under half its load for long, and see that nothing changes
    ///
    /// As root, on veth devices in network namespaces: flows come and go, the guests are made equal
    /// every second and differ in one byte every ten. Memory, latency and the books are looked at
    /// each second; the verdict, all samples and a picture are written at the end.
    Soak(soak::Options),
}

fn run(task: Task) -> anyhow::Result<()> {
    use build_ebpf::Flavour;
    match task {
        Task::Setup => setup::run()?,
        Task::BuildEbpf { release } => {
            let flavour = if release { Flavour::Release } else { Flavour::Debug };
            let object = build_ebpf::build(&setup::ensure()?, flavour)?;
            println!("{}", object.display());
        }
        Task::Demo(options) => {
            demo::run(&options, &release::build()?)?;
        }
        Task::Test(options) => test::run(&options)?,
        Task::Vm(options) => vm::run(&options)?,
        Task::Fuzz(options) => fuzz::run(&options)?,
        Task::Simulate(options) => simulate::run(&options)?,
        Task::Mutate(options) => mutate::run(&options)?,
        Task::Bench(bench::Bench::Xdp(options)) => {
            bench::xdp::run(&options, &release::build()?, &release::build_pair_sender()?)?;
        }
        Task::Bench(bench::Bench::Chardev(options)) => {
            setup::ensure_for_tests()?;
            bench::chardev::run(&options, &release::build()?, &release::build_chardev_load()?)?;
        }
        Task::Bench(bench::Bench::Proxy(options)) => {
            bench::proxy::run(&options, &release::build()?, &release::build_proxy_load()?)?;
        }
        Task::Soak(options) => {
            soak::run(&options, || Ok([release::build()?, release::build_pair_sender()?]))?;
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let Err(error) = run(Arguments::parse().command) else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::from(exit_code(&error))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    use setup::SetupError::{Failed, NotInstallable, StillMissing};
    match error.downcast_ref() {
        Some(NotInstallable { .. }) => MACHINE_LACKS,
        Some(Failed(_) | StillMissing { .. }) => SETUP_FAILED,
        None => FAILED,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_machine_that_lacks_something_has_its_own_exit_code() {
        let lacks = setup::SetupError::NotInstallable { missing: vec!["m4".into()] };
        assert_eq!(exit_code(&lacks.into()), MACHINE_LACKS);
        let still = setup::SetupError::StillMissing { missing: vec!["m4".into()] };
        assert_eq!(exit_code(&still.into()), SETUP_FAILED);
        assert_eq!(exit_code(&anyhow::anyhow!("a test failed")), FAILED);
    }
}
