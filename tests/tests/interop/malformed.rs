//! Frames that contradict themselves.

use colo_tests::malformed;

use crate::case::{Case, Flow, equal, pair, primary, releases};

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for family in [|flow: &Flow| flow.v4.clone(), |flow: &Flow| flow.v6.clone()] {
        for (index, class) in malformed::classes(&family(&Flow::new(0))).iter().enumerate() {
            let frame = move |flow: &Flow| malformed::classes(&family(flow))[index].frame.clone();
            cases.push(equal(
                &format!("malformed: {}: of the primary", class.fault),
                move |flow| primary([frame(flow)]),
                releases(&[0]),
            ));
            cases.push(equal(
                &format!("malformed: {}: of both", class.fault),
                move |flow| pair(&frame(flow), &frame(flow)),
                releases(&[0]),
            ));
        }
    }
    cases
}
