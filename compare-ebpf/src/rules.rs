//! Bypass rules.

use compare_ebpf::{Direction, FAMILY_ANY, RULES_PER_BANK, Rule};

use crate::headers::Flow;
use crate::steer::RULES;

/// Whether any of the `count` rules from index `first` on matches.
#[inline(always)]
pub(crate) fn any_matches(flow: &Flow, first: u32, count: u32) -> bool {
    for index in 0..RULES_PER_BANK {
        if index >= count {
            break;
        }
        if let Some(rule) = RULES.get(first + index)
            && matches(rule, flow)
        {
            return true;
        }
    }
    false
}

/// Whether one rule matches.
#[inline(always)]
fn matches(rule: &Rule, flow: &Flow) -> bool {
    if rule.protocol != 0 && rule.protocol != flow.protocol {
        return false;
    }
    if rule.family != FAMILY_ANY && rule.family != flow.family {
        return false;
    }
    let source = rule.direction != Direction::Destination as u8
        && end_matches(rule, &flow.source, flow.source_port);
    let destination = rule.direction != Direction::Source as u8
        && end_matches(rule, &flow.destination, flow.destination_port);
    source || destination
}

/// Whether an address and port are those of the rule.
#[inline(always)]
fn end_matches(rule: &Rule, address: &[u32; 4], port: u16) -> bool {
    let words = address.iter().zip(&rule.address).zip(&rule.mask);
    let difference = words.fold(0, |sum, ((is, wanted), mask)| sum | ((is ^ wanted) & mask));
    difference == 0 && (rule.port == 0 || rule.port == port)
}
