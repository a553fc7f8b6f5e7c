//! What the network hears when a guest has moved.

use std::time::{Duration, Instant};

use compare_user::kernel::Announcer;

use crate::network::{Wire, device, in_namespace, ip, veth};

const GUEST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
const SECOND_MAC: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];

/// Sends whenever something is due, until nothing is.
fn run(announcer: &mut Announcer) {
    while let Some(deadline) = announcer.deadline() {
        std::thread::sleep(deadline.saturating_duration_since(Instant::now()));
        announcer.tick(Instant::now());
    }
}

/// The senders of the reverse ARP frames that have arrived, in order.
fn senders(wire: &mut Wire) -> Vec<[u8; 6]> {
    let frames = wire.drain();
    let rarp = frames.iter().filter(|frame| frame[12..14] == [0x80, 0x35]);
    rarp.map(|frame| frame[6..12].try_into().unwrap()).collect()
}

#[test]
fn each_address_is_announced_five_times_from_the_guest_s_own_address() {
    in_namespace(|| {
        veth("nic", "switch");
        let mut switch = Wire::open(&device("switch"));
        let mut announcer = Announcer::open("nic").unwrap();
        assert_eq!(announcer.deadline(), None);
        announcer.start(vec![GUEST, SECOND_MAC], Instant::now());
        run(&mut announcer);
        assert_eq!(senders(&mut switch), [GUEST, SECOND_MAC].repeat(5));
    });
}

#[test]
fn a_stopped_announcement_says_no_more_and_a_late_one_does_not_catch_up() {
    in_namespace(|| {
        veth("nic", "switch");
        let mut switch = Wire::open(&device("switch"));
        let mut announcer = Announcer::open("nic").unwrap();
        announcer.start(vec![GUEST], Instant::now());
        announcer.tick(Instant::now());
        announcer.stop();
        run(&mut announcer);
        assert_eq!(senders(&mut switch), [GUEST]);

        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        announcer.start(vec![GUEST], long_ago);
        run(&mut announcer);
        assert_eq!(senders(&mut switch), [GUEST]);
    });
}

#[test]
fn a_device_that_is_gone_for_a_while_costs_only_what_it_misses() {
    in_namespace(|| {
        veth("nic", "switch");
        let mut announcer = Announcer::open("nic").unwrap();
        ip("link del nic");
        announcer.start(vec![GUEST], Instant::now());
        announcer.tick(Instant::now());
        veth("nic", "switch");
        let mut switch = Wire::open(&device("switch"));
        run(&mut announcer);
        assert_eq!(senders(&mut switch), [GUEST].repeat(4));
    });
}
