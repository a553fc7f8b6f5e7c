//! Pairs of guests that send the same datagrams, the secondary's reordered within the grace.

use std::collections::HashMap;
use std::time::Duration;

use compare_user::compare::{Reason, Side};
use proptest::prelude::*;
use proptest::sample::Index;

use crate::rig::{Rig, ms};
use crate::wire::{Bytes, IPV4, IPV6};

/// One datagram: which flow, and which of a few payloads, so that equal ones are common.
type Datagram = (u16, u8);

fn frame((flow, payload): Datagram) -> Bytes {
    let bytes = vec![payload; 10 + usize::from(payload)];
    if flow.is_multiple_of(2) { IPV4.udp(flow, &bytes) } else { IPV6.udp(flow, &bytes) }
}

/// What one guest sends in a time shorter than the grace, and how the secondary's copies fall
/// back.
#[derive(Debug, Clone)]
struct Burst {
    datagrams: Vec<Datagram>,
    delays: Vec<usize>,
    picks: Vec<bool>,
    pause: u64,
}

fn burst() -> impl Strategy<Value = Burst> {
    (
        prop::collection::vec((0..4_u16, 0..12_u8), 1..120),
        prop::collection::vec(0..64_usize, 1..40),
        prop::collection::vec(any::<bool>(), 1..40),
        0..2000_u64,
    )
        .prop_map(|(datagrams, delays, picks, pause)| Burst {
            datagrams,
            delays,
            picks,
            pause,
        })
}

/// Counts what the secondary has produced and what has left, per content.
#[derive(Default)]
struct Oracle {
    produced: HashMap<Bytes, usize>,
    judged: usize,
}

impl Oracle {
    fn judge(&mut self, rig: &Rig) {
        for (frame, ..) in &rig.record.released[self.judged..] {
            let left = self.produced.entry(frame.clone()).or_default();
            assert!(*left > 0, "released more often than the secondary has produced it");
            *left -= 1;
        }
        self.judged = rig.record.released.len();
    }
}

/// Offers a burst within the grace.
fn offer(rig: &mut Rig, oracle: &mut Oracle, burst: &Burst) {
    let mut delayed: Vec<(usize, Datagram)> = burst
        .datagrams
        .iter()
        .zip(burst.delays.iter().cycle())
        .enumerate()
        .map(|(number, (datagram, delay))| (number + delay, *datagram))
        .collect();
    delayed.sort_by_key(|(place, _)| *place);
    let mut ours = burst.datagrams.iter();
    let mut theirs = delayed.iter();
    let mut picks = burst.picks.iter().cycle();
    let step = Duration::from_millis(2) / (2 * burst.datagrams.len() as u32 + 2);
    loop {
        let primary_first = *picks.next().expect("never empty");
        let next = if primary_first {
            ours.next().map(|it| (Side::Primary, *it))
        } else {
            theirs.next().map(|(_, it)| (Side::Secondary, *it))
        };
        let next = next
            .or_else(|| ours.next().map(|it| (Side::Primary, *it)))
            .or_else(|| theirs.next().map(|(_, it)| (Side::Secondary, *it)));
        let Some((side, datagram)) = next else { return };
        if side == Side::Secondary {
            *oracle.produced.entry(frame(datagram)).or_default() += 1;
        }
        rig.offer(side, frame(datagram));
        oracle.judge(rig);
        rig.wait(step);
    }
}

fn of_flow(frames: impl Iterator<Item = Bytes>, flow: u16) -> Vec<Bytes> {
    let family =
        |bytes: &Bytes| if flow.is_multiple_of(2) { bytes[13] == 0 } else { bytes[13] != 0 };
    let port = |bytes: &Bytes| {
        let at = if bytes[13] == 0 { 14 + 20 + 2 } else { 14 + 40 + 2 };
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    };
    frames.filter(|bytes| family(bytes) && port(bytes) == flow).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn equal_datagrams_leave_in_the_primarys_order_without_a_divergence(
        bursts in prop::collection::vec(burst(), 1..5),
    ) {
        let mut rig = Rig::new();
        let mut oracle = Oracle::default();
        for burst in &bursts {
            offer(&mut rig, &mut oracle, burst);
            prop_assert_eq!(rig.held(), 0, "everything has left");
            rig.wait(ms(burst.pause));
        }
        prop_assert!(rig.is_clean(), "{:?}", rig.record.divergences);
        for flow in 0..4 {
            let sent = bursts.iter().flat_map(|burst| &burst.datagrams).map(|it| frame(*it));
            let expected = of_flow(sent, flow);
            prop_assert_eq!(of_flow(rig.released().into_iter(), flow), expected);
        }
        rig.assert_conserved();
    }

    #[test]
    fn a_flush_in_the_middle_causes_no_divergence_and_changes_no_order(
        bursts in prop::collection::vec(burst(), 2..4),
        cut in any::<Index>(),
    ) {
        let mut rig = Rig::new();
        let primary = &bursts[0].datagrams;
        let seen = cut.index(primary.len());
        for datagram in primary {
            rig.primary(frame(*datagram));
        }
        for datagram in &primary[..seen] {
            rig.secondary(frame(*datagram));
        }
        rig.checkpoint();
        prop_assert_eq!(rig.held(), 0);
        for datagram in &primary[seen..] {
            rig.secondary(frame(*datagram));
        }
        let mut oracle = Oracle { judged: rig.record.released.len(), ..Oracle::default() };
        for datagram in &primary[seen..] {
            *oracle.produced.entry(frame(*datagram)).or_default() += 1;
        }
        for burst in &bursts[1..] {
            offer(&mut rig, &mut oracle, burst);
            rig.wait(ms(5));
        }
        prop_assert!(rig.is_clean(), "{:?}", rig.record.divergences);
        for flow in 0..4 {
            let sent = bursts.iter().flat_map(|burst| &burst.datagrams).map(|it| frame(*it));
            let expected = of_flow(sent, flow);
            prop_assert_eq!(of_flow(rig.released().into_iter(), flow), expected);
        }
        rig.wait(ms(2900));
        prop_assert!(rig.is_clean(), "{:?}", rig.record.divergences);
        rig.assert_conserved();
    }

    #[test]
    fn a_planted_difference_is_reported_where_it_is_and_nothing_behind_it_leaves(
        datagrams in prop::collection::vec(0..12_u8, 1..60),
        which in any::<Index>(),
        place in any::<Index>(),
        lead in 0..20_usize,
    ) {
        let which = which.index(datagrams.len());
        let ours: Vec<Bytes> = (0_u8..).zip(&datagrams).map(|(number, payload)| {
            let mut bytes = vec![*payload; 10 + usize::from(*payload)];
            bytes[0] = number;
            IPV4.udp(5, &bytes)
        }).collect();
        let mut theirs = ours.clone();
        let payload = 14 + 20 + 8;
        let at = payload + place.index(theirs[which].len() - payload);
        theirs[which][at] ^= 0x80;
        let mut rig = Rig::new();
        for number in 0..ours.len() + lead {
            ours.get(number).into_iter().for_each(|frame| rig.primary(frame.clone()));
            let behind = number.checked_sub(lead).and_then(|behind| theirs.get(behind));
            behind.into_iter().for_each(|frame| rig.secondary(frame.clone()));
            rig.wait(Duration::from_micros(100));
        }
        rig.wait(ms(3));
        let seen = rig.divergence();
        prop_assert_eq!(seen.reason, Reason::Payload);
        prop_assert_eq!(seen.flow.as_str(), "10.0.0.1:53 > 10.0.0.9:5 udp");
        prop_assert_eq!(seen.offset as usize, at - payload);
        prop_assert_eq!(rig.record.requests, 1);
        prop_assert_eq!(rig.released(), &ours[..which]);
        rig.checkpoint();
        prop_assert_eq!(rig.released(), ours);
        rig.assert_conserved();
    }
}
