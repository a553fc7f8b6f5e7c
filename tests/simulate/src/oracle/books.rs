//! The comparator's own books.

use compare_user::compare::Counters;
use compare_user::frame::{FlowKey, NO_TAG};

use super::{Oracle, Rule, Verdict};
use crate::meaning::Address;

impl Oracle {
    /// Compares the comparator's own books with the oracle's.
    ///
    /// # Errors
    /// When they differ.
    pub fn audit(&mut self, counters: &Counters, outstanding: bool) -> Verdict {
        let ours = [
            self.received,
            self.released,
            self.discarded,
            self.lost,
            self.held[0] as u64,
            self.held[1] as u64,
        ];
        let theirs = [
            counters.primary_received + counters.secondary_received,
            counters.released,
            counters.discarded,
            counters.lost,
            u64::from(counters.primary_held),
            u64::from(counters.secondary_held),
        ];
        if ours != theirs {
            return self.broken(Rule::Conservation, format!("counted {theirs:?}, seen {ours:?}"));
        }
        let limits = self.scenario.limits;
        if counters.held() > limits.held || counters.flows > limits.flows {
            return self.broken(Rule::Limit, format!("{counters:?}"));
        }
        if outstanding != self.outstanding.is_some() {
            return self.broken(Rule::Request, format!("a request is outstanding: {outstanding}"));
        }
        Ok(())
    }

    /// Whether flows have been forgotten since this was asked last.
    pub fn has_evicted(&mut self, counters: &Counters) -> bool {
        let new = counters.flows_evicted - self.evicted;
        self.evicted = counters.flows_evicted;
        self.coverage.add("flows evicted", new);
        new > 0
    }

    /// These flows are known now, with so many frames held of each side; all others are forgotten.
    ///
    /// # Errors
    /// One of those forgotten holds frames, or the numbers are wrong.
    pub fn known(&mut self, known: &[(FlowKey, u16, u16, bool)]) -> Verdict {
        let mut is_known = vec![false; self.flows.len()];
        for (key, primary, secondary, reported) in known {
            let Some(&flow) = self.by_key.get(key) else {
                return self.broken(Rule::Report, format!("no such flow: {key}"));
            };
            is_known[flow as usize] = true;
            let entry = &self.flows[flow as usize];
            let held = [usize::from(*primary), usize::from(*secondary)];
            if [entry.held[0].len(), entry.held[1].len()] != held || entry.reported != *reported {
                return self.broken(Rule::Conservation, format!("{key}: {held:?}, {reported}"));
            }
            if held.iter().any(|held| *held > usize::from(self.scenario.limits.queue)) {
                return self.broken(Rule::Limit, format!("{key}: {held:?}"));
            }
        }
        for flow in (0..self.flows.len()).filter(|flow| !is_known[*flow]) {
            let entry = &mut self.flows[flow];
            if entry.holds() {
                return self.broken(Rule::Limit, "a flow that holds frames was forgotten");
            }
            entry.stream = None;
            entry.ahead.clear();
            entry.ghosts.iter_mut().for_each(|ghost| ghost.sure = false);
            entry.reported = false;
        }
        Ok(())
    }

    /// Whether a flow is known by this key.
    #[must_use]
    pub fn is_key_of(&self, flow: u32, key: &FlowKey) -> bool {
        self.by_key.get(key) == Some(&flow)
    }
}

/// The key by which the comparator should know a flow.
pub(super) fn expected_key(address: &Address) -> FlowKey {
    let mut vlan = [NO_TAG; 3];
    vlan[..address.vlan.len()].copy_from_slice(&address.vlan);
    let (source_port, destination_port) = address.ports.unwrap_or_default();
    FlowKey {
        source: address.source,
        destination: address.destination,
        vlan,
        source_port,
        destination_port,
        protocol: address.protocol,
        family: if address.v6 { 6 } else { 4 },
        fragment: u8::from(address.fragment),
        reserved: [0; 3],
    }
}
