//! Where frames go: sockets, the output device, nowhere.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use compare_user::kernel::{
    AttachOptions, KernelError, Mode, Outcome, Pass, Role, Standalone, Steer,
};
use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{Socket, Umem};

use crate::network::{
    Wire, assert_all_went, device, ethernet, in_namespace, ip, options, pinned, pins, udp, veth,
    wait_until,
};
use crate::relaying::wrapped;

/// A guest's veth, and a "NIC" whose far end accepts redirected frames.
struct Bench {
    inside: Wire,
    wire: Wire,
    output: u32,
    _pass: Pass,
}

impl Bench {
    fn new() -> Self {
        veth("guest", "inside");
        veth("nic", "wire");
        Self {
            inside: Wire::open(&device("inside")),
            wire: Wire::open(&device("wire")),
            output: device("nic").index,
            _pass: Pass::attach(&device("wire")).unwrap(),
        }
    }

    fn steer(&self, mode: Mode, role: Role) -> Steer {
        let options = AttachOptions { role, output: Some(self.output), ..options("guest", mode) };
        Steer::attach(&options).unwrap()
    }
}

fn frame(port: u16) -> Vec<u8> {
    ethernet([2, 0, 0, 0, 0, 1], 0x0800, &udp((1, 1000), (1, port)))
}

#[test]
fn bypassed_flows_leave_on_the_output_and_others_do_not() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for mode in [Mode::Native, Mode::Generic] {
            let mut steer = bench.steer(mode, Role::Primary);
            steer.set_bypass(&["proto=udp,port=53".parse().unwrap()]).unwrap();
            bench.inside.send(&frame(53));
            bench.inside.send(&frame(54));
            wait_until(|| steer.outcomes().unwrap().frames() == 2);
            let outcomes = steer.outcomes().unwrap();
            assert_eq!(outcomes[Outcome::Bypassed].packets, 1);
            assert_eq!(outcomes[Outcome::NoSocketDropped].packets, 1);
            assert_eq!(bench.wire.drain(), [frame(53)], "{mode:?}");
        }
    });
}

#[test]
fn replaced_rules_are_in_force_and_the_old_ones_are_not() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut steer = bench.steer(Mode::Native, Role::Primary);
        for port in [53, 54, 55] {
            steer.set_bypass(&[format!("port={port}").parse().unwrap()]).unwrap();
            for sent in [53, 54, 55] {
                bench.inside.send(&frame(sent));
            }
            assert_eq!(bench.wire.drain(), [frame(port)]);
        }
        steer.set_bypass(&[]).unwrap();
        bench.inside.send(&frame(55));
        assert!(bench.wire.drain().is_empty());
    });
}

#[test]
fn the_secondary_drops_what_the_primary_sends_past_the_comparison() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut steer = bench.steer(Mode::Native, Role::Secondary);
        steer.set_bypass(&["port=53".parse().unwrap()]).unwrap();
        bench.inside.send(&frame(53));
        assert_all_went(&steer, Outcome::BypassDropped, 1);
        assert!(bench.wire.drain().is_empty());
    });
}

#[test]
fn standalone_forwards_or_drops_everything_and_can_be_taken_back() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for mode in [Mode::Native, Mode::Generic] {
            let mut steer = bench.steer(mode, Role::Secondary);
            steer.set_standalone(Standalone::Forward).unwrap();
            bench.inside.send(&frame(1));
            assert_eq!(bench.wire.drain(), [frame(1)], "{mode:?}");
            assert_all_went(&steer, Outcome::StandaloneForwarded, 1);

            steer.set_standalone(Standalone::Drop).unwrap();
            bench.inside.send(&frame(2));
            wait_until(|| steer.outcomes().unwrap()[Outcome::StandaloneDropped].packets == 1);

            steer.set_standalone(Standalone::Off).unwrap();
            bench.inside.send(&frame(3));
            wait_until(|| steer.outcomes().unwrap()[Outcome::NoSocketDropped].packets == 1);
            assert!(bench.wire.drain().is_empty());
        }
    });
}

#[test]
fn without_an_output_device_the_loss_is_counted() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let mut steer = Steer::attach(&options("guest", Mode::Native)).unwrap();
        steer.set_standalone(Standalone::Forward).unwrap();
        bench.inside.send(&frame(1));
        assert_all_went(&steer, Outcome::NoOutput, 1);

        steer.set_output(bench.output).unwrap();
        bench.inside.send(&frame(2));
        assert_eq!(bench.wire.drain(), [frame(2)]);
        let error = steer.set_output(0x7fff_ffff).unwrap_err();
        assert!(matches!(error, KernelError::NoDevice { .. }), "{error}");
    });
}

#[test]
#[allow(unsafe_code, reason = "xsk-rs leaves frame ownership to the caller")]
fn a_registered_socket_gets_the_frames_of_its_queue() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for mode in [Mode::Native, Mode::Generic] {
            let mut steer = bench.steer(mode, Role::Primary);
            let count = NonZeroU32::new(64).unwrap();
            let (umem, mut frames) = Umem::new(UmemConfig::default(), count, false).unwrap();
            let config = SocketConfig::builder()
                .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
                .build();
            // SAFETY: the only socket of this UMEM.
            let socket = unsafe { Socket::new(config, &umem, &"guest".parse().unwrap(), 0) };
            let (sender, mut receiver, rings) = socket.unwrap();
            let (mut fill, completion) = rings.unwrap();
            // SAFETY: each frame is lent once and read after it came back; the descriptor is open
            // during the call that borrows it.
            unsafe {
                assert_eq!(fill.produce(&frames[..32]), 32);
                let socket = BorrowedFd::borrow_raw(sender.fd().as_raw_fd());
                steer.register_socket(0, socket).unwrap();
                bench.inside.send(&frame(1));
                let got = receiver.poll_and_consume(&mut frames[32..], 2000).unwrap();
                assert_eq!(got, 1);
                assert_eq!(umem.data(&frames[32]).contents(), frame(1));
            }
            assert_all_went(&steer, Outcome::Steered, 1);

            // A closed socket leaves its slot by itself. The UMEM holds the first one's.
            drop((sender, receiver, fill, completion, umem));
            wait_until(|| {
                bench.inside.send(&frame(2));
                steer.outcomes().unwrap()[Outcome::NoSocketDropped].packets > 0
            });
        }
    });
}

#[test]
fn only_a_socket_in_range_can_be_registered() {
    in_namespace(|| {
        veth("guest", "inside");
        let mut steer = Steer::attach(&options("guest", Mode::Native)).unwrap();
        let no_socket = std::fs::File::open("/dev/null").unwrap();
        assert!(steer.register_socket(0, no_socket.as_fd()).is_err());
        assert!(steer.register_socket(u32::MAX, no_socket.as_fd()).is_err());
    });
}

#[test]
fn jumbo_frames_are_counted_whole_and_leave_whole() {
    in_namespace(|| {
        let mut bench = Bench::new();
        for device in ["guest", "inside", "nic", "wire"] {
            ip(&format!("link set {device} mtu 9000"));
        }
        for mode in [Mode::Native, Mode::Generic] {
            let mut steer = bench.steer(mode, Role::Primary);
            let jumbo = |port| {
                let mut packet = udp((1, 1000), (1, port));
                packet.resize(9000, 0xaa);
                ethernet([2, 0, 0, 0, 0, 1], 0x0800, &packet)
            };
            bench.inside.send(&jumbo(1));
            assert_all_went(&steer, Outcome::NoSocketDropped, 1);
            assert_eq!(steer.outcomes().unwrap()[Outcome::NoSocketDropped].bytes, 9014);
            steer.set_bypass(&["port=53".parse().unwrap()]).unwrap();
            bench.inside.send(&jumbo(53));
            assert!(bench.wire.drain() == [jumbo(53)], "{mode:?}");
        }
    });
}

#[test]
fn a_device_that_goes_away_while_steered_can_be_let_go() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let steer = Steer::attach(&pinned("guest", Mode::Native)).unwrap();
        bench.inside.send(&frame(1));
        assert_all_went(&steer, Outcome::NoSocketDropped, 1);
        ip("link del guest");
        assert_all_went(&steer, Outcome::NoSocketDropped, 1);
        steer.detach().unwrap();
        assert!(pins().is_empty());
    });
}

#[test]
fn debug_lines_are_accepted_by_the_verifier_and_cost_nothing_when_off() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let instructions = || {
            let id = device("guest").attached().unwrap().unwrap().program_id;
            let mut programs = aya::programs::loaded_programs().map(Result::unwrap);
            programs.find(|program| program.id() == id).unwrap().size_translated().unwrap()
        };
        let mut sizes = Vec::new();
        for debug in [false, true] {
            let options = AttachOptions { debug, ..options("guest", Mode::Native) };
            let mut steer = Steer::attach(&options).unwrap();
            sizes.push(instructions());
            steer.set_bypass(&["addr=10.0.0.0/8".parse().unwrap()]).unwrap();
            bench.inside.send(&frame(1));
            assert_all_went(&steer, Outcome::NoOutput, 1);
            steer.drain_debug_log();
        }
        // What the verifier finds dead it removes.
        assert!(sizes[0] * 2 < sizes[1], "{sizes:?} bytes");
    });
}

#[test]
fn a_tunnelled_link_steers_what_its_peer_sends_for_the_pair_and_nothing_else() {
    in_namespace(|| {
        let mut bench = Bench::new();
        let options = AttachOptions {
            role: Role::Secondary,
            tunnelled: true,
            output: Some(bench.output),
            ..options("guest", Mode::Native)
        };
        let mut steer = Steer::attach(&options).unwrap();
        steer.set_tunnel(&"vni=77,local=10.9.0.2,remote=10.9.0.1".parse().unwrap()).unwrap();
        steer.set_standalone(Standalone::Forward).unwrap();
        let inner = frame(53);
        let peer = [10, 9, 0, 1];
        let mut cut = wrapped(peer, 8, 77, &inner);
        cut.truncate(70);
        let sent = [
            (wrapped(peer, 8, 77, &inner), Outcome::StandaloneForwarded),
            (wrapped(peer, 8, 78, &inner), Outcome::OtherVni),
            (wrapped(peer, 0, 77, &inner), Outcome::TunnelMalformed),
            (cut, Outcome::TunnelMalformed),
            (wrapped([10, 9, 0, 3], 8, 77, &inner), Outcome::ForeignPeer),
            (frame(54), Outcome::Host),
        ];
        for (frame, outcome) in sent {
            let before = steer.outcomes().unwrap();
            bench.inside.send(&frame);
            wait_until(|| steer.outcomes().unwrap().frames() == before.frames() + 1);
            let after = steer.outcomes().unwrap();
            assert_eq!(after[outcome].packets, before[outcome].packets + 1, "{outcome:?}");
        }
        assert_eq!(bench.wire.drain(), [inner], "without its outer headers");
    });
}
