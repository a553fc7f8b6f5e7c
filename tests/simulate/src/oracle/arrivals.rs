//! What comes in with a call.

use compare_user::compare::Discard;

use super::{Arrivals, Call, Oracle, Verdict};
use crate::frames::Frames;
use crate::meaning::{Content, Meaning, Replica};
use crate::verdict::Output;

impl Oracle {
    pub(super) fn arrivals(&self, offered: &[u32], outputs: &[Output]) -> Arrivals {
        let mut arrivals = Arrivals {
            frames: offered.to_vec(),
            unseen: Vec::new(),
            lost: Vec::new(),
            gone: Vec::new(),
            useless: Vec::new(),
        };
        for output in outputs {
            if let Output::Released(frame, ..) | Output::Discarded(frame, ..) = output {
                arrivals.gone.push(frame.0);
            }
            if let Output::Discarded(frame, _, why) = output {
                if *why == Discard::FlowsFull {
                    arrivals.unseen.push(frame.0);
                }
                if why.is_loss() {
                    arrivals.lost.push(frame.0);
                } else if *why == Discard::Flushed && offered.contains(&frame.0) {
                    arrivals.useless.push(frame.0);
                }
            }
        }
        arrivals
    }

    pub(super) fn take_in(&mut self, call: Call, arrivals: &Arrivals, frames: &Frames) -> Verdict {
        for &frame in &arrivals.frames {
            self.received += 1;
            if self.inside.len() <= frame as usize {
                self.inside.resize(frame as usize + 1, 0);
            }
            self.inside[frame as usize] = self.received;
            let meaning = frames.meaning(frame);
            self.note_kind(meaning);
            let flow = meaning.flow;
            self.touch(flow);
            self.age.push_back((self.now, frame));
            let entry = &mut self.flows[flow as usize];
            self.holding += usize::from(!entry.holds());
            entry.held[meaning.side.index()].push(frame);
            self.held[meaning.side.index()] += 1;
            if self.standalone.is_none()
                && !arrivals.unseen.contains(&frame)
                && let Content::Segment(segment) = &meaning.content
            {
                let lost = arrivals.lost.contains(&frame);
                match call {
                    Call::Offer(Replica::Primary) => {
                        self.primary_says(flow, frame, segment, lost, frames);
                    }
                    _ => {
                        let useless = arrivals.useless.contains(&frame);
                        let gone = arrivals.gone.contains(&frame);
                        self.secondary_says(flow, frame, segment, lost, useless, gone)?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn note_kind(&mut self, meaning: &Meaning) {
        let address = &self.flows[meaning.flow as usize].address;
        let met = [
            (address.fragment, "fragments"),
            (!address.vlan.is_empty(), "tagged frames"),
            (address.v6, "IPv6 frames"),
            (meaning.partial_checksum, "partial checksums"),
        ];
        for (met, what) in met {
            if met {
                self.coverage.count(what);
            }
        }
    }
}
