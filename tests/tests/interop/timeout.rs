//! What finds no partner in time.

use std::time::Duration;

use colo_tests::chardev::Framing;
use colo_tests::contender::Properties;
use colo_tests::packet::arp;
use colo_tests::segment::{ACK, FIN, SYN, Segment};

use crate::case::{Case, Step, apart, asks, equal, holds, pair, primary, releases, secondary};

/// Short, so that the cases are.
pub(crate) const PROPERTIES: Properties = Properties {
    framing: Framing::Plain,
    compare_timeout: Duration::from_millis(1000),
    expired_scan_cycle: Duration::from_millis(300),
    max_queue_size: 1024,
};

/// Well before the timeout, on a busy machine too.
const EARLY: Step = Step::Wait(Duration::from_millis(100));
/// After the timeout and QEMU's next scan.
const LATE: Step = Step::Wait(Duration::from_millis(1700));

pub(crate) fn cases() -> Vec<Case> {
    vec![
        equal(
            "timeout: a datagram of the primary alone",
            |f| [primary([f.v4.udp(1, 2, b"alone")]), vec![LATE]].concat(),
            asks(&[]),
        ),
        equal(
            "timeout: a datagram of the secondary alone",
            |f| [secondary([f.v4.udp(1, 2, b"alone")]), vec![LATE]].concat(),
            asks(&[]),
        ),
        equal(
            "timeout: an echo of the primary alone",
            |f| [primary([f.v4.echo(1, 2, b"alone")]), vec![LATE]].concat(),
            asks(&[]),
        ),
        equal(
            "timeout: a segment of the primary alone",
            |f| {
                let frame = Segment::new(80, 4000).sequence(1).payload(b"alone").frame(&f.v4);
                [primary([frame]), vec![LATE]].concat()
            },
            asks(&[]),
        ),
        equal(
            "timeout: a segment of the secondary alone",
            |f| {
                let frame = Segment::new(80, 4000).sequence(1).payload(b"alone").frame(&f.v4);
                [secondary([frame]), vec![LATE]].concat()
            },
            asks(&[]),
        ),
        equal(
            "timeout: SYN-ACK of the primary alone",
            |f| {
                let frame = Segment::new(80, 4000).sequence(1).flags(SYN | ACK).frame(&f.v4);
                [primary([frame]), vec![LATE]].concat()
            },
            asks(&[]),
        ),
        equal(
            "timeout: FIN of the primary alone",
            |f| {
                let frame = Segment::new(80, 4000).sequence(1).flags(FIN | ACK).frame(&f.v4);
                [primary([frame]), vec![LATE]].concat()
            },
            asks(&[]),
        ),
        equal(
            "timeout: a partner that comes before it",
            |f| {
                let frame = f.v4.udp(1, 2, b"slowly");
                [primary([&frame]), vec![EARLY], secondary([&frame]), vec![LATE]].concat()
            },
            releases(&[0]),
        ),
        equal(
            "timeout: a partner that comes after it",
            |f| {
                let frame = f.v4.udp(1, 2, b"slowly");
                [primary([&frame]), vec![LATE], secondary([&frame])].concat()
            },
            asks(&[0]),
        ),
        equal(
            "timeout: ARP is not held",
            |_| [primary([arp()]), vec![LATE]].concat(),
            releases(&[0]),
        ),
        apart(
            "timeout: a bare ACK of the primary alone",
            |f| {
                let frame = Segment::new(80, 4000).sequence(1).acknowledgement(5).frame(&f.v4);
                [primary([frame]), vec![LATE]].concat()
            },
            asks(&[]),
            releases(&[0]),
            "a bare ACK is not held",
        ),
        apart(
            "timeout: the primary acknowledges more for too long",
            |f| {
                let segment = Segment::new(80, 4000).sequence(1).payload(b"data");
                let ours = segment.clone().acknowledgement(500).frame(&f.v4);
                let theirs = segment.acknowledgement(100).frame(&f.v4);
                [pair(&ours, &theirs), vec![LATE]].concat()
            },
            releases(&[0]),
            asks(&[]),
            "the secondary might never see what the client thinks delivered",
        ),
        equal(
            "timeout: a checkpoint before it",
            |f| [primary([f.v4.udp(1, 2, b"alone")]), vec![EARLY, Step::Checkpoint, LATE]].concat(),
            releases(&[0]),
        ),
        equal("timeout: nothing has been sent", |_| vec![LATE], holds()),
    ]
}
