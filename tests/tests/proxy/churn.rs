//! Connections that come back on the ports of earlier ones.

use std::time::Duration;

use colo_tests::load::{Crowd, Style};
use colo_tests::pair::{Pair, Plan};
use colo_tests::{Result, needs_root};

use crate::{finish_identical, pages};

#[test]
fn a_port_that_is_used_again_is_a_new_connection() -> Result {
    needs_root!();
    let pair = Pair::new(Plan::default(), &[])?;
    let style = Style::Churn { first_port: 20_000, each: 4 };
    let within = Duration::from_secs(60);
    let crowd = Crowd { connections: 2_000, at_a_time: 16, style, seed: 2, within };
    let tally = pair.client().run(|| Ok(crowd.run(&pages())))?;
    tally.check(2_000)?;
    finish_identical(pair)?;
    Ok(())
}
