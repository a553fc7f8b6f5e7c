//! The `clsact` qdisc, which carries classifiers on kernels without tcx.

use std::io;

use super::{Request, ask};

// linux/rtnetlink.h, linux/netlink.h.
const RTM_DELQDISC: u16 = 37;
const RTM_GETTFILTER: u16 = 46;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;

// linux/pkt_sched.h: the qdisc's handle and parent, and the parents of its filters.
const CLSACT: u32 = 0xffff_0000;
const CLSACT_PARENT: u32 = 0xffff_fff1;
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Length of `struct tcmsg`.
const FIXED: usize = 20;

fn request(kind: u16, flags: u16, device: u32, handle: u32, parent: u32) -> Request {
    let mut fixed = [0; FIXED];
    // Behind the family and its padding; the priority and protocol stay zero.
    for (at, number) in [(4, device), (8, handle), (12, parent)] {
        fixed[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    }
    Request::new(kind, flags, &fixed)
}

/// Takes the qdisc off a device if nobody has a filter on it.
pub(in crate::kernel) fn remove_unused_clsact(device: u32) -> io::Result<()> {
    for parent in [INGRESS, EGRESS] {
        let first = ask(request(RTM_GETTFILTER, NLM_F_DUMP, device, 0, parent))?;
        // The message that ends a list has four bytes, one of a filter at least a `tcmsg`.
        if first.len() >= FIXED {
            return Ok(());
        }
    }
    ask(request(RTM_DELQDISC, NLM_F_ACK, device, CLSACT, CLSACT_PARENT)).map(drop)
}
