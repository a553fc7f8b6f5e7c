//! Operations of no sense at all, against limits of a few frames: nothing panics, no frame is
//! lost or doubled, no flow is reported twice and no checkpoint asked for twice.

use std::collections::HashSet;
use std::time::Duration;

use compare_user::compare::{AckGate, Config, Reason, Side};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, NETWORKS, fragment, fragment_v6, segment};

#[derive(Debug, Clone)]
enum Operation {
    Offer(Side, Bytes),
    Batch(Side, Vec<Bytes>),
    Wait(u64),
    Checkpoint,
    Failover(Side),
    Rearm,
}

/// TCP segments that overlap, repeat, wrap, and carry any flags.
fn stream_frame() -> impl Strategy<Value = Bytes> {
    let near = prop_oneof![4 => 0..40_u32, 1 => any::<u32>()];
    (
        (near.clone(), prop::option::of(near), any::<[bool; 3]>(), prop::bool::weighted(0.1)),
        prop::collection::vec(0..2_u8, 0..12),
        0..3_u16,
        0..NETWORKS.len(),
    )
        .prop_map(|((sequence, ack, [fin, rst, rare], syn), payload, port, network)| {
            let mut it = segment(sequence.wrapping_sub(20));
            it = ack.map_or(it.clone(), |number| it.clone().ack(number.wrapping_sub(20)));
            it = if fin && rare { it.fin() } else { it };
            it = if rst && rare { it.rst() } else { it };
            it = if syn { it.syn() } else { it };
            it.payload(&payload).port(port).on(&NETWORKS[network]).frame()
        })
}

fn datagram_frame() -> impl Strategy<Value = Bytes> {
    (0..6_u8, 0..NETWORKS.len(), 0..3_u16, prop::collection::vec(0..3_u8, 0..4)).prop_map(
        |(kind, network, number, payload)| {
            let network = &NETWORKS[network];
            match kind {
                0 | 1 => network.udp(number, &payload),
                2 => network.echo(number, &payload),
                3 => network.protocol(47 + number as u8, &payload),
                4 => fragment(number, 8 * number, number == 0, &payload),
                _ => fragment_v6(number.into(), 8 * number, number == 0, &payload),
            }
        },
    )
}

fn any_frame() -> impl Strategy<Value = Bytes> {
    let well_formed = prop_oneof![3 => stream_frame(), 2 => datagram_frame()].boxed();
    let damaged = (well_formed.clone(), any::<Index>(), any::<u8>(), any::<bool>()).prop_map(
        |(mut frame, at, value, cut)| {
            let at = at.index(frame.len());
            if cut {
                frame.truncate(at);
            } else {
                frame[at] = value;
            }
            frame
        },
    );
    prop_oneof![
        8 => well_formed,
        2 => damaged,
        1 => prop::collection::vec(any::<u8>(), 0..80),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Primary), Just(Side::Secondary)]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        30 => (side(), any_frame()).prop_map(|(side, frame)| Operation::Offer(side, frame)),
        5 => (side(), prop::collection::vec(any_frame(), 0..80))
            .prop_map(|(side, frames)| Operation::Batch(side, frames)),
        5 => prop_oneof![0..5_u64, 0..4000_u64].prop_map(Operation::Wait),
        2 => Just(Operation::Checkpoint),
        1 => side().prop_map(Operation::Failover),
        2 => Just(Operation::Rearm),
    ]
}

fn config() -> impl Strategy<Value = Config> {
    (
        prop_oneof![Just(0_u16), Just(1), Just(2), Just(1024)],
        prop_oneof![Just(1_u32), Just(2), Just(64)],
        prop_oneof![Just(0_u32), Just(1), Just(4), Just(4096)],
        prop_oneof![Just(Duration::ZERO), Just(ms(2)), Just(ms(500))],
        any::<bool>(),
    )
        .prop_map(|(queue_limit, flow_limit, held_limit, reorder_grace, all)| Config {
            queue_limit,
            flow_limit,
            held_limit,
            reorder_grace,
            ack_gate: if all { AckGate::All } else { AckGate::Payload },
            ..Config::default()
        })
}

/// What must hold after every operation.
#[derive(Default)]
struct Watch {
    divergences: usize,
    requests: usize,
    reported: HashSet<String>,
}

impl Watch {
    fn check(&mut self, rig: &Rig, operation: &Operation) {
        let counters = rig.comparator.counters();
        let received = counters.primary_received + counters.secondary_received;
        let accounted = counters.released + counters.discarded + counters.lost;
        assert_eq!(received, accounted + u64::from(counters.held()));

        let asked = rig.record.requests - self.requests;
        assert!(asked <= 1, "one request, or one repeated");
        self.requests = rig.record.requests;
        if rig.comparator.standalone().is_some() {
            assert_eq!(counters.held(), 0, "nothing is held after a failover");
            assert_eq!(asked, 0);
        }
        for seen in &rig.record.divergences[self.divergences..] {
            assert!(rig.comparator.checkpoint_outstanding(), "a divergence asks for a checkpoint");
            // A flow that was never tracked, or was evicted, cannot know that it was reported.
            if seen.reason != Reason::FlowTable && counters.flows_evicted == 0 {
                assert!(self.reported.insert(seen.flow.clone()), "{} twice", seen.flow);
            }
        }
        self.divergences = rig.record.divergences.len();
        if matches!(operation, Operation::Checkpoint | Operation::Failover(_)) {
            assert_eq!(counters.held(), 0);
            assert!(!rig.comparator.checkpoint_outstanding());
            self.reported.clear();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_panics_and_every_frame_is_accounted_for(
        config in config(),
        operations in prop::collection::vec(operation(), 1..150),
    ) {
        let mut rig = Rig::with(|it| *it = config);
        let mut watch = Watch::default();
        for operation in &operations {
            match operation {
                Operation::Offer(side, frame) => rig.offer(*side, frame.clone()),
                Operation::Batch(side, frames) => rig.offer_batch(*side, frames.clone()),
                Operation::Wait(time) => rig.wait(ms(*time)),
                Operation::Checkpoint => rig.checkpoint(),
                Operation::Failover(survivor) => rig.failover(*survivor),
                Operation::Rearm => rig.comparator.rearm(),
            }
            watch.check(&rig, operation);
        }
        rig.assert_conserved();
    }
}
