//! A COLO pair whose guests, client and hosts are ordinary kernel network stacks.
//!
//! A [`Network`] is the scene: namespaces, devices, perhaps a [`Wire`] that loses frames. A
//! [`Pair`] is the scene at work, with `colo-xdp run --mirror` on the primary host, `colo-xdp
//! relay` on the secondary host and the services of [`crate::service`] in both guests. What the
//! client does with them is in [`crate::load`].
//!
//! ```no_run
//! use colo_tests::load::{Download, Progress};
//! use colo_tests::pair::{Family, Pair, Plan};
//! use colo_tests::service::port;
//!
//! # fn main() -> colo_tests::Result {
//! let pair = Pair::new(Plan::default(), &["--ack-gate", "all"])?;
//! let server = Family::V4.at(port::PAGES);
//! pair.client().run(|| Download::new(1, 1_000_000).run(server, &Progress::default()))?;
//! pair.finish()?.check_identical()?;
//! # Ok(())
//! # }
//! ```

mod colo;
mod network;
mod wire;

pub use colo::{Ended, Pair, PairLaunch};
pub use network::{Congestion, Family, GUEST_MAC, Host, Link, Network, Plan, Side, VNI};
pub use wire::{Carried, Direction, Impairment, Wire};
