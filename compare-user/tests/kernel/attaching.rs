//! What can be attached where, what is refused, and what is left behind.

use std::io::Write;
use std::os::fd::AsRawFd;

use compare_user::kernel::{
    AttachOptions, AttachedMode, EmptySlot, FaultKind, KernelError, Mode, Outcome, Pass, Steer,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::network::{
    Wire, assert_all_went, device, ethernet, in_namespace, ip, ipv4_received, options, pinned,
    pins, tap, udp, veth, wait_until,
};

const FRAMES: u64 = 20;

#[test]
fn native_and_generic_programs_see_every_frame_of_a_veth_and_of_a_tap() {
    in_namespace(|| {
        veth("guest", "inside");
        let mut taps_end = tap("tap");
        let mut inside = Wire::open(&device("inside"));
        let frame = ethernet([2, 0, 0, 0, 0, 1], 0x88b5, &[7; 100]);
        for (mode, obtained) in
            [(Mode::Native, AttachedMode::Native), (Mode::Generic, AttachedMode::Generic)]
        {
            let guest = Steer::attach(&options("guest", mode)).unwrap();
            let tap = Steer::attach(&options("tap", mode)).unwrap();
            assert_eq!((guest.mode(), tap.mode()), (obtained, obtained));
            for _ in 0..FRAMES {
                inside.send(&frame);
                assert_eq!(taps_end.write(&frame).unwrap(), frame.len());
            }
            for steer in [guest, tap] {
                assert_all_went(&steer, Outcome::NoSocketDropped, FRAMES);
                let tally = steer.outcomes().unwrap()[Outcome::NoSocketDropped];
                assert_eq!(tally.bytes, FRAMES * frame.len() as u64);
            }
        }
    });
}

#[test]
fn an_empty_slot_drops_or_passes_as_it_was_told() {
    in_namespace(|| {
        veth("guest", "inside");
        let mut inside = Wire::open(&device("inside"));
        let mut stack = Wire::open(&device("guest"));
        let frame = ethernet([2, 0, 0, 0, 0, 1], 0x88b5, &[7; 100]);

        let closed = Steer::attach(&options("guest", Mode::Native)).unwrap();
        inside.send(&frame);
        assert_all_went(&closed, Outcome::NoSocketDropped, 1);
        assert_eq!(stack.drain(), Vec::<Vec<u8>>::new());
        drop(closed);

        let open = AttachOptions { empty_slot: EmptySlot::Pass, ..options("guest", Mode::Native) };
        let open = Steer::attach(&open).unwrap();
        inside.send(&frame);
        assert_all_went(&open, Outcome::NoSocketPassed, 1);
        assert_eq!(stack.drain(), [frame]);
    });
}

#[test]
fn detaching_leaves_the_device_as_it_was_found() {
    in_namespace(|| {
        veth("guest", "inside");
        let before = device("guest");
        let steer = Steer::attach(&pinned("guest", Mode::Auto)).unwrap();
        let found = before.attached().unwrap().unwrap();
        assert_eq!((found.name.as_str(), found.pinned_by_us), ("steer", true));
        assert_eq!(pins().len(), 1);

        steer.detach().unwrap();
        assert_eq!(before.attached().unwrap(), None);
        assert_eq!(device("guest"), before);
        assert!(pins().is_empty());
        // And the claim is given back.
        Steer::attach(&options("guest", Mode::Auto)).unwrap().detach().unwrap();
        assert_eq!(before.attached().unwrap(), None);
    });
}

#[test]
fn leaving_a_device_closed_keeps_dropping() {
    in_namespace(|| {
        veth("guest", "inside");
        let guest = device("guest");
        Steer::attach(&pinned("guest", Mode::Auto)).unwrap().leave_closed();
        let frame = ethernet(guest.mac.unwrap(), 0x0800, &udp((1, 1000), (1, 2000)));
        let mut inside = Wire::open(&device("inside"));
        let mut stack = Wire::open(&guest);
        inside.send(&frame);
        assert!(stack.drain().is_empty());

        Steer::attach(&pinned("guest", Mode::Auto)).unwrap().detach().unwrap();
        inside.send(&frame);
        assert_eq!(stack.drain(), [frame]);
        wait_until(|| ipv4_received() == 1);
    });
}

#[test]
fn a_second_owner_is_refused_and_told_who_has_the_device() {
    in_namespace(|| {
        veth("guest", "inside");
        let _first = Steer::attach(&options("guest", Mode::Auto)).unwrap();
        let error = Steer::attach(&options("guest", Mode::Auto)).err().unwrap();
        assert_eq!(error.kind(), FaultKind::Device);
        let line = error.to_string();
        assert!(line.contains(&format!("(pid {})", std::process::id())), "{line}");

        // Even when so many have asked that the claim's queue of connections is full.
        while connect_to_claim("guest").is_ok() {}
        let error = Steer::attach(&options("guest", Mode::Auto)).err().unwrap();
        assert!(matches!(error, KernelError::InUse { .. }), "{error}");
    });
}

/// One unaccepted connection; EAGAIN once there are as many as the queue holds.
fn connect_to_claim(device: &str) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let name = format!("colo-xdp/device/{device}");
    connect(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)
}

#[test]
fn another_programs_owner_is_left_alone_and_named() {
    in_namespace(|| {
        veth("guest", "inside");
        let foreign = Pass::attach(&device("guest")).unwrap();
        let id = device("guest").attached().unwrap().unwrap().program_id;
        let error = Steer::attach(&pinned("guest", Mode::Auto)).err().unwrap();
        assert_eq!(error.kind(), FaultKind::Device);
        let line = error.to_string();
        assert!(line.contains(&format!("pass (id {id}, native)")), "{line}");
        assert!(line.contains(&format!("bpftool prog show id {id}")), "{line}");
        assert_eq!(device("guest").attached().unwrap().unwrap().program_id, id);
        drop(foreign);
        assert!(pins().is_empty());
    });
}

#[test]
fn auto_falls_back_to_generic_and_a_forced_mode_is_an_error() {
    in_namespace(|| {
        // The loopback device has no native XDP.
        let error = Steer::attach(&options("lo", Mode::Native)).err().unwrap();
        assert!(matches!(error, KernelError::ModeRefused { mode: "native", .. }), "{error}");
        let steer = Steer::attach(&options("lo", Mode::Auto)).unwrap();
        assert_eq!(steer.mode(), AttachedMode::Generic);
    });
}

#[test]
fn a_device_that_is_not_there_is_an_error_with_its_name() {
    in_namespace(|| {
        for name in ["nowhere", "", "a-name-beyond-ifnamsiz", "../lo"] {
            let error = Steer::attach(&options(name, Mode::Auto)).err().unwrap();
            assert!(
                matches!(&error, KernelError::NoDevice { device } if device == name),
                "{error}"
            );
            assert_eq!(error.kind(), FaultKind::Device);
        }
    });
}

#[test]
fn a_device_with_a_dot_in_its_name_can_be_pinned() {
    in_namespace(|| {
        veth("guest.7", "inside");
        let steer = Steer::attach(&pinned("guest.7", Mode::Auto)).unwrap();
        assert_eq!(pins().len(), 1);
        steer.detach().unwrap();
        assert!(pins().is_empty());
    });
}

#[test]
fn a_veth_accepts_redirected_frames_while_its_peer_passes_them() {
    in_namespace(|| {
        veth("nic", "wire");
        assert!(!device("nic").xdp_features().unwrap().accepts_redirect);
        let pass = Pass::attach(&device("wire")).unwrap();
        assert!(device("nic").xdp_features().unwrap().accepts_redirect);
        drop(pass);
        assert!(!device("nic").xdp_features().unwrap().accepts_redirect);
    });
}

#[test]
fn queues_peers_and_offloads_are_those_that_ethtool_shows() {
    in_namespace(|| {
        ip("link add guest numrxqueues 3 numtxqueues 2 type veth peer name inside");
        let guest = device("guest");
        assert_eq!((guest.rx_queues, guest.tx_queues), (3, 2));
        assert_eq!(guest.driver, "veth");
        assert_eq!(guest.peer, Some(compare_user::kernel::device::Peer::Here("inside".into())));
        assert!(guest.offloads().unwrap().tx_checksum);
        let ethtool = std::process::Command::new("ethtool")
            .args(["-K", "guest", "tx", "off", "tso", "off", "gso", "off", "txvlan", "off"])
            .output()
            .unwrap();
        assert!(ethtool.status.success(), "{ethtool:?}");
        let off = guest.offloads().unwrap();
        assert!(!(off.tx_checksum || off.tso || off.gso || off.tx_vlan), "{off:?}");
    });
}
