//! The scene of the second act, drawn, with its commands.

use colo_tests::PairLaunch;
use colo_tests::pair::Network;

use crate::demo::screen::Screen;

/// Draws the two hosts with their devices, and says what runs on them.
pub(super) fn show(screen: &Screen, network: &Network, launch: &PairLaunch) {
    let (primary, secondary) = (&network.primary, &network.secondary);
    let width = [&primary.nic, &secondary.nic].map(String::len).into_iter().max().unwrap_or(0);
    screen.say(&format!(
        concat!(
            "                {blank}       .---------- primary host ----------.\n",
            "              .-- NIC {pn:width$} --| mirror, comparator    {pg} |-- primary guest\n",
            "              | {blank}       '------------- {pl} ------------'\n",
            "  client -- switch{blank}                 replication link\n",
            "              | {blank}       .------------- {sl} ------------.\n",
            "              '-- NIC {sn:width$} --| relay                 {sg} |-- secondary guest\n",
            "                {blank}       '--------- secondary host ---------'\n",
            "\n",
            "What comes for the guest is mirrored to both; the relay gives the secondary's numbers\n",
            "the primary's origin; the comparator lets out what both have said.\n",
            "On the primary host:\n  $ {run}\n",
            "On the secondary host:\n  $ {relay}",
        ),
        blank = " ".repeat(width),
        width = width,
        pn = primary.nic,
        pg = primary.guest_device,
        pl = primary.link,
        sn = secondary.nic,
        sg = secondary.guest_device,
        sl = secondary.link,
        run = launch.comparator_launch(network).command_line(),
        relay = launch.relay_launch(network).command_line(),
    ));
}
