//! The comparator: operations in any order, against limits of a few frames. After each of them every
//! frame is in exactly one place, all limits hold, what left was allowed to, and no memory was taken.

mod ledger;
mod operation;
mod wire;

use std::time::Duration;

use compare_user::compare::{AckGate, Comparator, Config, Timestamp};
use compare_user::frame::Headers;

use crate::memory;
use ledger::{Frame, Frames, Ledger};
use operation::{Input, Operation};

/// Frames that one batch has at most.
const BATCH: usize = 40;

/// Input: five bytes of configuration, then operations; `operation.rs` has their form.
pub fn check(input: &[u8]) {
    let mut input = Input::new(input);
    let config = configuration(&mut input);
    let mut case = Case {
        comparator: Comparator::new(config.clone()),
        ledger: Ledger::new(&config),
        // Far from the origin, so that what is older than the first frame can be said.
        now: Timestamp::ORIGIN + Duration::from_secs(100),
        batch: Vec::with_capacity(BATCH),
        config,
    };
    while let Some(operation) = Operation::read(&mut input) {
        case.perform(operation);
        case.ledger.audit(&case.comparator, &case.config);
    }
    case.ledger.flushing();
    case.counted(|comparator, now, ledger| comparator.shut_down(now, &Frames, ledger));
    case.ledger.audit(&case.comparator, &case.config);
    case.ledger.assert_all_out();
}

/// Limits that a handful of operations reach.
fn configuration(input: &mut Input<'_>) -> Config {
    let gates = [AckGate::Payload, AckGate::All, AckGate::Slower, AckGate::Off];
    let gate = gates[usize::from(input.byte() % 4)];
    let grace = [Duration::from_millis(2), Duration::ZERO];
    Config {
        queue_limit: 1 + u16::from(input.byte() % 24),
        held_limit: 1 + u32::from(input.byte() % 64),
        flow_limit: 1 + u32::from(input.byte() % 16),
        compare_timeout: Duration::from_millis(3000),
        request_interval: Duration::from_millis(1000),
        reorder_grace: grace[usize::from(input.byte() % 2)],
        ack_gate: gate,
        seed: 7,
    }
}

struct Case {
    comparator: Comparator<Frame>,
    ledger: Ledger,
    now: Timestamp,
    batch: Vec<Frame>,
    config: Config,
}

impl Case {
    fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Offer(side, bytes) => {
                let frame = self.ledger.admit(side, bytes);
                self.counted(|comparator, now, ledger| {
                    comparator.offer(side, frame, now, &Frames, ledger);
                });
            }
            Operation::Batch(side, frames) => {
                for bytes in frames {
                    let frame = self.ledger.admit(side, bytes);
                    self.batch.push(frame);
                }
                let mut batch = std::mem::take(&mut self.batch);
                self.counted(|comparator, now, ledger| {
                    comparator.offer_batch(side, &mut batch, now, &Frames, ledger);
                });
                assert!(batch.is_empty(), "a batch is taken whole");
                self.batch = batch;
            }
            Operation::Wait(time) => {
                self.now = self.now + time;
                self.counted(|comparator, now, ledger| comparator.tick(now, &Frames, ledger));
            }
            Operation::Checkpoint => {
                self.ledger.flushing();
                self.counted(|comparator, now, ledger| {
                    comparator.checkpoint_done(now, &Frames, ledger);
                });
                self.assert_flushed();
            }
            Operation::Failover(survivor) => {
                self.ledger.failing_over(survivor);
                self.counted(|comparator, now, ledger| {
                    comparator.failover(survivor, now, &Frames, ledger);
                });
                assert_eq!(self.comparator.standalone(), Some(survivor));
                self.assert_flushed();
            }
            Operation::Rearm => {
                self.counted(|comparator, _, _| comparator.rearm());
                assert_eq!(self.comparator.standalone(), None);
                self.ledger.rearmed();
            }
            Operation::Reset { of, age } => {
                let key = Headers::parse(&Frames, &Frame::unknown(of)).key;
                let at = Timestamp::ORIGIN + self.now.elapsed().saturating_sub(age);
                self.counted(|comparator, now, ledger| {
                    comparator.connection_reset(&key, at, now, &Frames, ledger);
                });
            }
        }
    }

    /// Runs the comparator, which must not ask for memory.
    fn counted(&mut self, work: impl FnOnce(&mut Comparator<Frame>, Timestamp, &mut Ledger)) {
        self.ledger.calling(self.now);
        let (comparator, ledger, now) = (&mut self.comparator, &mut self.ledger, self.now);
        let ((), usage) = memory::used(|| work(comparator, now, ledger));
        assert_eq!(usage.allocations, 0, "all memory is taken when the comparator is made");
    }

    fn assert_flushed(&self) {
        assert_eq!(self.comparator.counters().held(), 0, "a flush leaves nothing held");
        assert!(!self.comparator.checkpoint_outstanding(), "and nothing to ask for");
    }
}
