//! The scene of the second act, drawn, with its commands.

use colo_tests::PairLaunch;
use colo_tests::pair::{Host, Network};

use crate::demo::screen::Screen;

/// Draws the two hosts with their devices, and says what runs on them.
pub(super) fn show(screen: &Screen, network: &Network, launch: &PairLaunch) {
    let (primary, secondary) = (&network.primary, &network.secondary);
    let [above, below] = [
        inside(primary, "mirror, comparator"),
        // As wide as what is above it.
        inside(secondary, "relay             "),
    ];
    let border = |label: &str| format!("{label:-^width$}", width = above.len());
    screen.say(&format!(
        concat!(
            "            .{primary_host}.\n",
            "         .--|{above}|-- primary guest\n",
            "         |  '{primary_link}'\n",
            " client -+  {middle}\n",
            "         |  .{secondary_link}.\n",
            "         '--|{below}|-- secondary guest\n",
            "            '{secondary_host}'\n",
            "\n",
            "What comes for the guest is mirrored to both guests. The relay makes the secondary's\n",
            "sequence numbers those of the primary, and the comparator lets out what both have said.\n",
            "On the primary host:\n  $ {run}\n",
            "On the secondary host:\n  $ {relay}",
        ),
        above = above,
        below = below,
        primary_host = border(" primary host "),
        primary_link = border(&format!(" {} ", primary.link)),
        middle = format!("{:^width$}", "replication link", width = above.len() + 2).trim_end(),
        secondary_link = border(&format!(" {} ", secondary.link)),
        secondary_host = border(" secondary host "),
        run = launch.comparator_launch(network).command_line(),
        relay = launch.relay_launch(network).command_line(),
    ));
}

/// What is inside a host, from its NIC to its guest's device.
fn inside(host: &Host, pieces: &str) -> String {
    format!(" NIC {}   {pieces}   {} ", host.nic, host.guest_device)
}
