//! A second process on devices that are in use.

use anyhow::ensure;
use colo_tests::comparator::run_to_exit;
use colo_tests::pair::{PairLaunch, Plan};
use colo_tests::{Namespace, Result, needs_root};

use crate::load::{Transfers, pair};

/// A device cannot be had.
const DEVICE: i32 = 5;

/// Expects that a process with these arguments is refused in one line that names one of `devices`.
fn refused(host: &Namespace, devices: [&str; 3], arguments: &[&str]) -> Result {
    let output = run_to_exit(Some(host), None, arguments)?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(DEVICE), "{:?}: {message}", output.status);
    ensure!(message.trim().lines().count() == 1, "{message}");
    ensure!(devices.iter().any(|device| message.contains(device)), "names no device: {message}");
    Ok(())
}

#[test]
fn a_second_comparator_and_a_second_relay_are_refused_and_connections_go_on() -> Result {
    needs_root!();
    let pair = pair(PairLaunch::on(Plan::default()))?;
    let mut transfers = Transfers::begin(&pair)?;
    for _ in 0..2 {
        let host = &pair.network.primary;
        let devices = [host.guest_device.as_str(), &host.link, &host.nic];
        let [primary, secondary, out] = devices.map(|device| format!("xdp:{device}"));
        let ports = ["run", "--primary", &primary, "--secondary", &secondary, "--out", &out];
        refused(&host.namespace, devices, &ports)?;
        refused(&host.namespace, devices, &[&ports[..], &["--mirror", &host.nic]].concat())?;
        let host = &pair.network.secondary;
        let devices = [host.guest_device.as_str(), &host.link, &host.nic];
        let [guest, link, nic] = devices;
        let arguments = ["relay", "--guest", guest, "--link", link, "--nic", nic];
        refused(&host.namespace, devices, &arguments)?;
        transfers.come_again()?;
    }
    transfers.end()?;
    // Nothing was lost on account of them, and nothing differed.
    pair.finish()?.check_identical()
}
