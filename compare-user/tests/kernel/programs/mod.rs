//! The programs on frames from files, one by one, under `BPF_PROG_TEST_RUN`.
//!
//! They are loaded, and their maps filled, by the product. For each frame: what the program
//! returns, every byte of the frame behind it, and the one counter that moves.

mod accepted;
mod capture;
mod classes;
mod mirror;
mod relay;
mod rewriting;
pub(crate) mod run;
mod steer;
mod tunnel;
