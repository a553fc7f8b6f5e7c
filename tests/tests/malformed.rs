//! Frames that contradict themselves, through real devices: counted, harmless.

use std::time::Duration;

use colo_tests::capture::SILENCE;
use colo_tests::malformed::every_class;
use colo_tests::packet::Packet;
use colo_tests::payload::{Seed, bytes};
use colo_tests::segment::Segment;
use colo_tests::stage::WINDOW;
use colo_tests::{Attachment, Plan, Result, Stage, needs_root};

fn healthy_flow(stage: &mut Stage, serial: u64) -> Result {
    let [v4, v6] = Packet::families();
    stage.exchange(&[v4.udp(1, 2, &bytes(serial, 300)), v6.udp(1, 2, &bytes(serial, 300))])
}

#[test]
fn every_class_is_counted_leaves_from_the_primary_and_dies_from_the_secondary() -> Result {
    needs_root!();
    for attachment in [Attachment::Tap, Attachment::Veth] {
        let plan = Plan { primary: attachment, secondary: attachment, ..Plan::default() };
        let mut stage = Stage::new(plan, &["--reorder-grace", "500ms"])?;
        let mut count = 0;
        for case in every_class() {
            let sent = (|| {
                stage.primary(&[&case.frame])?;
                count += 1;
                stage.await_count("malformed", count)?;
                if case.reaches_capture {
                    stage.client().expect(&[&case.frame])?;
                } else if let Some(frame) = stage.client().next(SILENCE)? {
                    assert_eq!(frame, case.frame, "{}", case.fault);
                }
                stage.secondary(&[&case.frame])?;
                count += 1;
                stage.await_count("malformed", count)?;
                stage.client().expect_nothing(Duration::ZERO)?;
                healthy_flow(&mut stage, count)
            })();
            sent.map_err(|error| error.context(case.fault))?;
        }
        stage.client().expect_nothing(SILENCE)?;
        let outcome = stage.finish()?;
        assert_eq!(outcome.summary.count("divergences"), 0);
    }
    Ok(())
}

#[test]
fn thousands_of_damaged_frames_neither_crash_it_nor_touch_other_flows() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&["--reorder-grace", "500ms", "--compare-timeout", "60000"])?;
    let mut seed = Seed::new(20);
    let [v4, v6] = Packet::families();
    let extended = Packet::v6().extension(0, &[1, 4, 0, 0, 0, 0]);
    let originals = [
        v4.udp(9, 9, &bytes(1, 60)),
        v6.udp(9, 9, &bytes(2, 60)),
        Segment::new(9, 9).payload(&bytes(3, 60)).timestamps(1, 2).frame(&v4),
        Segment::new(9, 9).payload(&bytes(4, 60)).frame(&v6),
        v4.tagged(3).tagged(4).echo(1, 1, &bytes(5, 20)),
        extended.udp(9, 9, &bytes(6, 20)),
        v6.fragments(17, &bytes(7, 100), 64).remove(0),
    ];
    let mut sent = 0;
    for round in 0..30 {
        let damaged: Vec<_> = (0..WINDOW)
            .map(|_| {
                let mut frame = originals[seed.below(originals.len())].clone();
                for _ in 0..=seed.below(4) {
                    // Behind the addresses, so that the capture still knows the sender.
                    let at = 12 + seed.below(frame.len() - 12);
                    frame[at] = seed.below(256) as u8;
                }
                frame.truncate(14 + seed.below(frame.len() - 13));
                frame
            })
            .collect();
        stage.primary(&damaged)?;
        stage.secondary(&damaged)?;
        sent += damaged.len() as u64;
        stage.await_count("primary_received", sent)?;
        stage.await_count("secondary_received", sent)?;
        // A damaged frame may be a well-formed one of another flow, and even diverge from its
        // shuffled twin; after a checkpoint every flow is whole again.
        stage.checkpoint()?;
        while stage.client().next(Duration::ZERO)?.is_some() {}
        let healthy = Packet::v4().udp(1, 2, &bytes(1000 + round, 200));
        stage.primary(&[&healthy])?;
        stage.secondary(&[&healthy])?;
        stage.client().expect(&[healthy])?;
        sent += 1;
    }
    stage.finish()?;
    Ok(())
}
