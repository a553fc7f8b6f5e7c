//! Whether a device can carry frames, as its other end comes and goes.

use compare_user::kernel::LinkState;

use crate::network::{in_namespace, ip, tap, veth};

fn state(device: &str) -> LinkState {
    LinkState::of(device).unwrap()
}

#[test]
fn a_veth_loses_its_carrier_with_its_peer_and_a_tap_with_its_process() {
    in_namespace(|| {
        assert_eq!(state("replica"), LinkState::Gone);
        veth("replica", "peer");
        assert_eq!(state("replica"), LinkState::Up);
        ip("link set peer down");
        assert_eq!(state("replica"), LinkState::NoCarrier);
        ip("link set peer up");
        assert_eq!(state("replica"), LinkState::Up);
        ip("link set replica down");
        assert_eq!(state("replica"), LinkState::Down);
        ip("link del replica");
        assert_eq!(state("replica"), LinkState::Gone);

        let guest = tap("tap");
        assert_eq!(state("tap"), LinkState::Up);
        drop(guest);
        assert_eq!(state("tap"), LinkState::Gone);
    });
}
