//! Frames that contradict themselves.
//!
//! colo-xdp's rule is one: no receiver accepts such a frame, so the primary's leaves at once and the
//! secondary's is dropped, as with ARP. QEMU has that rule for IPv6, which it does not look into; of
//! IPv4 it takes most of them for datagrams.

use colo_tests::malformed;

use crate::case::{Case, Flow, apart, equal, holds, pair, primary, releases, unsettled};

/// Classes that QEMU passes uncompared too.
const PASSED_BY_BOTH: [&str; 3] = [
    "IPv4: no header at all",
    "IPv4: header cut after ten bytes",
    "IPv4: header length beyond the frame",
];
/// Classes that QEMU compares by what lies behind the frame in its memory.
const READ_TOO_FAR: [&str; 2] =
    ["IPv4: TCP header cut", "IPv4: TCP data offset beyond the segment"];

const AT_ONCE: &str = "what no receiver accepts is no output: it holds nothing up";
const NEVER_PAST_THE_END: &str = "nothing is read past the end of a frame";

pub(crate) fn cases() -> Vec<Case> {
    let v4 = |flow: &Flow| malformed::classes(&flow.v4);
    let v6 = |flow: &Flow| malformed::classes(&flow.v6);
    let mut cases = Vec::new();
    for classes in [v4, v6] {
        for (index, class) in classes(&Flow::new(0)).iter().enumerate() {
            let frame = move |flow: &Flow| classes(flow)[index].frame.clone();
            let fault = class.fault.as_str();
            let alone = format!("malformed: {fault}: of the primary");
            let sent_alone = move |flow: &Flow| primary([frame(flow)]);
            cases.push(if fault.starts_with("IPv6") || PASSED_BY_BOTH.contains(&fault) {
                equal(&alone, sent_alone, releases(&[0]))
            } else {
                apart(&alone, sent_alone, holds(), releases(&[0]), AT_ONCE)
            });
            let both = format!("malformed: {fault}: of both");
            let sent_by_both = move |flow: &Flow| pair(&frame(flow), &frame(flow));
            cases.push(if READ_TOO_FAR.contains(&fault) {
                unsettled(&both, sent_by_both, releases(&[0]), NEVER_PAST_THE_END)
            } else {
                equal(&both, sent_by_both, releases(&[0]))
            });
        }
    }
    cases
}
