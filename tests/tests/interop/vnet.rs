//! Vnet headers of the two sides need not be alike.

use colo_tests::chardev::{Message, VNET_HEADER};

use crate::case::{Case, Flow, Step, apart, asks, equal, releases};

const EACH_ITS_OWN: &str = "each frame starts behind its own header";

/// The primary's frame behind one vnet header, the secondary's behind another.
fn behind(flow: &Flow, ours: &[u8], theirs: &[u8]) -> Vec<Step> {
    let frame = flow.v4.udp(1, 2, b"same");
    vec![
        Step::PrimaryMessage(Message::with_vnet_header(ours, &frame)),
        Step::SecondaryMessage(Message::with_vnet_header(theirs, &frame)),
    ]
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        equal(
            "vnet: the headers differ",
            |f| behind(f, &[0; VNET_HEADER], &[1, 3, 54, 0, 0, 2, 34, 0, 16, 0, 1, 0]),
            releases(&[0]),
        ),
        apart(
            "vnet: 12 bytes against 10",
            |f| behind(f, &[0; 12], &[0; 10]),
            asks(&[]),
            releases(&[0]),
            EACH_ITS_OWN,
        ),
        apart(
            "vnet: 10 bytes against none",
            |f| behind(f, &[0; 10], &[]),
            asks(&[]),
            releases(&[0]),
            EACH_ITS_OWN,
        ),
        equal("vnet: no header on either side", |f| behind(f, &[], &[]), releases(&[0])),
        equal(
            "vnet: the frames differ behind equal headers",
            |f| {
                let message = |payload: &[u8]| {
                    Message::with_vnet_header(&[0; VNET_HEADER], &f.v4.udp(1, 2, payload))
                };
                vec![Step::PrimaryMessage(message(b"yes")), Step::SecondaryMessage(message(b"yet"))]
            },
            asks(&[]),
        ),
    ]
}
