//! What a scripted case is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use colo_tests::chardev::Message;
use colo_tests::packet::Packet;

/// One thing that happens to a comparator. Each has had its effect before the next one happens.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// The primary sends a frame.
    Primary(Vec<u8>),
    /// The secondary sends a frame.
    Secondary(Vec<u8>),
    /// The primary sends a frame behind a vnet header of its own.
    PrimaryMessage(Message),
    /// The secondary sends a frame behind a vnet header of its own.
    SecondaryMessage(Message),
    /// The checkpoint is done: `COLO_CHECKPOINT` on notify_dev.
    Checkpoint,
    /// Time passes.
    Wait(Duration),
}

/// The primary sends these.
pub(crate) fn primary<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Vec<Step> {
    frames.into_iter().map(|frame| Step::Primary(frame.as_ref().to_vec())).collect()
}

/// The secondary sends these.
pub(crate) fn secondary<F: AsRef<[u8]>>(frames: impl IntoIterator<Item = F>) -> Vec<Step> {
    frames.into_iter().map(|frame| Step::Secondary(frame.as_ref().to_vec())).collect()
}

/// The primary sends one frame, then the secondary one.
pub(crate) fn pair(ours: &[u8], theirs: &[u8]) -> Vec<Step> {
    [primary([ours]), secondary([theirs])].concat()
}

/// The secondary sends the frame, then the primary the same.
pub(crate) fn secondary_first(frame: &[u8]) -> Vec<Step> {
    [secondary([frame]), primary([frame])].concat()
}

/// What a comparator makes of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Primary frames released, by their order of arrival, in their order of release.
    pub(crate) released: Vec<usize>,
    /// Whether a checkpoint was asked for.
    pub(crate) asked: bool,
}

/// These are released and no checkpoint is asked for.
pub(crate) fn releases(frames: &[usize]) -> Verdict {
    Verdict { released: frames.to_vec(), asked: false }
}

/// These are released and a checkpoint is asked for.
pub(crate) fn asks(frames: &[usize]) -> Verdict {
    Verdict { released: frames.to_vec(), asked: true }
}

/// Nothing is released, nothing asked for.
pub(crate) fn holds() -> Verdict {
    releases(&[])
}

/// Whether the two comparators agree.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// They do.
    Equal(Verdict),
    /// They do not, because colo-xdp does better.
    Apart {
        /// QEMU's verdict; none when it is not the same every time.
        qemu: Option<Verdict>,
        /// colo-xdp's verdict.
        colo_xdp: Verdict,
        /// What is better about it.
        better: &'static str,
    },
}

/// Writes the steps of a case for a flow.
pub(crate) type Script = dyn Fn(&Flow) -> Vec<Step> + Send + Sync;

/// A scripted case: a name, what both sides send in which order, and what comes of it.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) script: Arc<Script>,
    pub(crate) expected: Expected,
}

/// Both comparators come to this verdict.
pub(crate) fn equal(
    name: &str,
    script: impl Fn(&Flow) -> Vec<Step> + Send + Sync + 'static,
    verdict: Verdict,
) -> Case {
    Case { name: name.into(), script: Arc::new(script), expected: Expected::Equal(verdict) }
}

/// A named exception: colo-xdp does better than QEMU.
pub(crate) fn apart(
    name: &str,
    script: impl Fn(&Flow) -> Vec<Step> + Send + Sync + 'static,
    qemu: Verdict,
    colo_xdp: Verdict,
    better: &'static str,
) -> Case {
    let expected = Expected::Apart { qemu: Some(qemu), colo_xdp, better };
    Case { name: name.into(), script: Arc::new(script), expected }
}

/// A named exception: colo-xdp comes to this verdict, QEMU to one or another.
pub(crate) fn unsettled(
    name: &str,
    script: impl Fn(&Flow) -> Vec<Step> + Send + Sync + 'static,
    colo_xdp: Verdict,
    better: &'static str,
) -> Case {
    let expected = Expected::Apart { qemu: None, colo_xdp, better };
    Case { name: name.into(), script: Arc::new(script), expected }
}

/// Addresses that no other case in the process has, so that cases do not disturb one another.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub(crate) v4: Packet,
    pub(crate) v6: Packet,
}

impl Flow {
    /// The flow of the case with this number.
    pub(crate) fn new(number: u16) -> Self {
        let [high, low] = number.to_be_bytes();
        let v4 = |last| IpAddr::from(Ipv4Addr::new(10, high, low, last));
        let v6 = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, number, last));
        Self { v4: Packet::between(v4(1), v4(2)), v6: Packet::between(v6(1), v6(2)) }
    }
}
