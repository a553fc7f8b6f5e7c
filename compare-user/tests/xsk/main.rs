//! AF_XDP ports on real devices: veth pairs and taps in a network namespace of each test's own.
//!
//! After every case the chunks are counted where they are ([`Bench::check_conservation`]): a frame
//! is at every moment in exactly one place.

#![allow(clippy::unwrap_used, reason = "a test that cannot arrange its case fails")]

mod network;
mod redirect;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use compare_user::frame::FrameStore;
use compare_user::port::xsk::{
    Region, RegionConfig, UmemFrame, XskErrorKind, XskOptions, XskPort, ZeroCopy,
};
use compare_user::port::{Port, PortError};

use network::{Tap, in_namespace, ip, veth};
use redirect::Redirect;

/// A frame that says which one it is, byte by byte.
fn frame(number: usize, length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length).map(|at| (at * 7 + number * 13) as u8).collect();
    bytes[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    // A local experimental EtherType, which no stack answers.
    bytes[12..14].copy_from_slice(&[0x88, 0xb5]);
    bytes[14..18].copy_from_slice(&(number as u32).to_be_bytes());
    bytes
}

/// Chunks that an output has taken and not sent, be they in the region or in its own memory.
fn unsent(output: &XskPort) -> usize {
    let own = output.own_audit().map(|audit| audit.user + audit.transmitting());
    own.unwrap_or(output.in_flight().transmit)
}

/// A region and ports on it; frames from the inputs go to the output unless a test takes them.
struct Bench {
    region: Region,
    inputs: Vec<XskPort>,
    output: Option<XskPort>,
    held: Vec<UmemFrame>,
    leaving: VecDeque<UmemFrame>,
    redirects: Vec<Redirect>,
}

impl Bench {
    fn new(config: RegionConfig) -> Self {
        Self {
            region: Region::new(config).unwrap(),
            inputs: Vec::new(),
            output: None,
            held: Vec::new(),
            leaving: VecDeque::new(),
            redirects: Vec::new(),
        }
    }

    fn input(&mut self, options: XskOptions) -> usize {
        let redirect = Redirect::attach(&options.device);
        let port = XskPort::open(&mut self.region, options).unwrap();
        redirect.to(port.options().queue, &port);
        self.redirects.push(redirect);
        self.inputs.push(port);
        self.inputs.len() - 1
    }

    fn output(&mut self, options: XskOptions) {
        self.output = Some(XskPort::open(&mut self.region, options).unwrap());
    }

    fn out(&self) -> &XskPort {
        self.output.as_ref().unwrap()
    }

    fn service(&mut self) {
        for port in self.inputs.iter_mut().chain(&mut self.output) {
            port.service(&mut self.region).unwrap();
        }
    }

    /// Receives until `count` frames are held, or a second has passed.
    fn hold(&mut self, count: usize) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while self.held.len() < count && Instant::now() < deadline {
            for port in &mut self.inputs {
                port.receive(&mut self.region, &mut self.held, 64).unwrap();
                port.service(&mut self.region).unwrap();
            }
        }
    }

    /// Sends everything that is held, and waits until the kernel has given it all back.
    fn release(&mut self) {
        self.leaving.extend(self.held.drain(..));
        let deadline = Instant::now() + Duration::from_secs(1);
        let output = self.output.as_mut().unwrap();
        while !self.leaving.is_empty() || unsent(output) > 0 {
            assert!(Instant::now() < deadline, "{} frames are stuck", self.leaving.len());
            output.transmit(&mut self.region, &mut self.leaving).unwrap();
            output.service(&mut self.region).unwrap();
        }
    }

    /// Sends everything that is held, whether or not anybody reads it at the far end.
    fn release_without_waiting(&mut self) {
        self.leaving.extend(self.held.drain(..));
        let output = self.output.as_mut().unwrap();
        output.transmit(&mut self.region, &mut self.leaving).unwrap();
        assert!(self.leaving.is_empty());
    }

    fn bytes(&self, frame: &UmemFrame) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < self.region.len(frame) {
            bytes.extend_from_slice(self.region.run(frame, bytes.len()));
        }
        bytes
    }

    /// Every chunk is in one place, and the ports' own counts, kept independently of the table,
    /// say the same.
    fn check_conservation(&self) {
        let audit = self.region.audit();
        let held = self.held.iter().chain(&self.leaving);
        let user: usize = held.map(|frame| self.region.chunks_of(frame)).sum();
        assert_eq!(audit.free, audit.free_list);
        assert_eq!(audit.user, user, "chunks in frames that are held");
        assert_eq!(audit.free + audit.user + audit.receiving() + audit.transmitting(), audit.total);
        let ports: Vec<_> = self.inputs.iter().chain(&self.output).collect();
        for port in ports.iter().filter(|port| !port.obtained().own_memory) {
            assert_eq!(audit.receive[port.number()], port.in_flight().receive);
            assert_eq!(audit.transmit[port.number()], port.in_flight().transmit);
        }
        for port in ports {
            assert_eq!(port.statistics().unwrap().port.strangers, 0);
        }
        assert_eq!(UmemFrame::leaked(), 0);
    }

    /// Closes everything: afterwards every chunk must be free.
    fn finish(mut self) {
        self.check_conservation();
        for frame in self.held.drain(..).chain(self.leaving.drain(..)) {
            self.region.recycle(frame);
        }
        for port in self.inputs.drain(..).chain(self.output.take()) {
            port.close(&mut self.region);
        }
        assert_eq!(self.region.free(), self.region.total());
        assert_eq!(self.region.audit().free, self.region.total());
    }
}

fn small() -> RegionConfig {
    RegionConfig { frames: 4096, ..RegionConfig::default() }
}

fn copy(device: &str) -> XskOptions {
    XskOptions { receive_frames: 512, ..XskOptions::new(device, 0) }
}

#[test]
fn frames_of_every_ethernet_length_cross_from_veth_to_veth_untouched() {
    in_namespace(|| {
        let (a, c) = (veth("pri"), veth("nic"));
        let mut bench = Bench::new(small());
        bench.input(copy("pri"));
        bench.output(copy("nic"));
        for length in 60..=1514 {
            let sent = frame(length, length);
            a.send(&sent);
            bench.hold(1);
            bench.release();
            assert_eq!(c.next().as_ref(), Some(&sent), "length {length}");
        }
        assert_eq!(bench.out().statistics().unwrap().port.transmitted, 1455);
        bench.finish();
    });
}

#[test]
fn a_tap_and_a_veth_feed_the_same_output() {
    in_namespace(|| {
        let (a, c) = (veth("pri"), veth("nic"));
        let mut tap = Tap::create("sec");
        let mut bench = Bench::new(small());
        bench.input(copy("pri"));
        bench.input(copy("sec"));
        bench.output(copy("nic"));
        for number in 0..300 {
            let (from_veth, from_tap) = (frame(number, 90), frame(number, 1514));
            a.send(&from_veth);
            tap.send(&from_tap);
            bench.hold(2);
            assert_eq!(bench.bytes(&bench.held[0]), from_veth);
            assert_eq!(bench.bytes(&bench.held[1]), from_tap);
            bench.release();
            assert_eq!(c.next(), Some(from_veth));
            assert_eq!(c.next(), Some(from_tap));
        }
        bench.finish();
    });
}

#[test]
fn frames_leave_through_a_tap() {
    in_namespace(|| {
        let a = veth("pri");
        let mut tap = Tap::create("nic");
        let mut bench = Bench::new(small());
        bench.input(copy("pri"));
        bench.output(copy("nic"));
        for number in 0..100 {
            a.send(&frame(number, 200));
            bench.hold(1);
            bench.release_without_waiting();
            assert_eq!(tap.next(), frame(number, 200));
        }
        bench.release();
        bench.finish();
    });
}

#[test]
fn a_jumbo_frame_is_a_chain_of_chunks_and_leaves_whole() {
    for frame_size in [2048, 4096] {
        in_namespace(move || {
            let (a, c) = (veth("pri"), veth("nic"));
            let mut bench = Bench::new(RegionConfig { frame_size, ..small() });
            bench.input(copy("pri"));
            bench.output(copy("nic"));
            assert!(bench.out().obtained().multi_buffer);
            for length in [1793, 3585, 4000, 8999, 9000, 9014] {
                let sent = frame(length, length);
                a.send(&sent);
                bench.hold(1);
                assert_eq!(bench.bytes(&bench.held[0]), sent);
                bench.check_conservation();
                bench.release();
                assert_eq!(c.next(), Some(sent), "length {length}");
            }
            bench.finish();
        });
    }
}

#[test]
fn a_jumbo_frame_can_be_allocated_patched_and_sent() {
    in_namespace(|| {
        let c = veth("nic");
        let mut bench = Bench::new(small());
        bench.output(copy("nic"));
        let mut expected = frame(1, 9000);
        let made = bench.region.allocate(&expected).unwrap();
        // Across the boundary between the first chunk and the second.
        bench.region.write(&made, 1790, &[0xaa, 0xbb, 0xcc, 0xdd]);
        expected[1790..1794].copy_from_slice(&[0xaa, 0xbb, 0xcc, 0xdd]);
        assert_eq!(bench.region.chunks_of(&made), 6);
        assert_eq!(bench.bytes(&made), expected);
        assert!(bench.region.run(&made, 9000).is_empty());
        bench.held.push(made);
        bench.release();
        assert_eq!(c.next(), Some(expected));
        bench.finish();
    });
}

#[test]
fn the_longest_chain_leaves_whole() {
    in_namespace(|| {
        let c = veth("nic");
        for device in ["nic", "nic-far"] {
            ip(&format!("link set {device} mtu 65000"));
        }
        let mut bench = Bench::new(small());
        bench.output(copy("nic"));
        let longest = frame(1, 18 * 1792);
        let made = bench.region.allocate(&longest).unwrap();
        assert_eq!(bench.region.chunks_of(&made), 18);
        bench.held.push(made);
        bench.release();
        assert_eq!(c.next(), Some(longest));
        assert_eq!(bench.out().statistics().unwrap().kernel.tx_invalid, 0);
        bench.finish();
    });
}

#[test]
fn allocation_stops_at_the_memory_and_at_the_longest_frame() {
    in_namespace(|| {
        let mut bench = Bench::new(RegionConfig { frames: 20, ..small() });
        assert!(bench.region.allocate(&[]).is_none());
        assert!(bench.region.allocate(&vec![0; 18 * 1792 + 1]).is_none());
        let longest = bench.region.allocate(&vec![0; 18 * 1792]).unwrap();
        assert_eq!(bench.region.free(), 2);
        assert!(bench.region.allocate(&vec![0; 3 * 1792]).is_none());
        bench.held.push(longest);
        bench.finish();
    });
}

#[test]
fn reception_resumes_after_the_fill_ring_ran_dry() {
    in_namespace(|| {
        let a = veth("pri");
        let mut bench = Bench::new(RegionConfig { frames: 128, ..small() });
        bench.input(XskOptions { receive_frames: 128, ..copy("pri") });
        for number in 0..300 {
            a.send(&frame(number, 60));
        }
        bench.hold(129);
        assert_eq!(bench.held.len(), 128, "as many as there are chunks");
        bench.check_conservation();
        let kernel = bench.inputs[0].statistics().unwrap().kernel;
        assert_eq!(kernel.fill_ring_empty, 172, "{kernel:?}");

        for frame in bench.held.drain(..) {
            bench.region.recycle(frame);
        }
        bench.service();
        a.send(&frame(300, 60));
        bench.hold(1);

        assert_eq!(bench.bytes(&bench.held[0]), frame(300, 60));
        bench.finish();
    });
}

#[test]
fn a_busy_port_leaves_chunks_for_the_other() {
    in_namespace(|| {
        let (a, b) = (veth("pri"), veth("sec"));
        let mut bench = Bench::new(RegionConfig { frames: 128, ..small() });
        bench.input(XskOptions { receive_frames: 64, ..copy("pri") });
        bench.input(XskOptions { receive_frames: 64, ..copy("sec") });
        for round in 0..4 {
            for number in 0..64 {
                a.send(&frame(round * 64 + number, 60));
            }
            bench.hold(64);
            bench.check_conservation();
            for frame in bench.held.drain(..) {
                bench.region.recycle(frame);
            }
            b.send(&frame(round, 61));
            bench.hold(1);
            assert_eq!(bench.held.len(), 1);
            for frame in bench.held.drain(..) {
                bench.region.recycle(frame);
            }
        }
        bench.finish();
    });
}

#[test]
fn a_full_transmit_ring_pushes_back_and_loses_nothing() {
    in_namespace(|| {
        let c = veth("nic");
        let mut bench = Bench::new(small());
        bench.output(XskOptions { tx_ring: 64, ..copy("nic") });
        for number in 0..500 {
            let made = bench.region.allocate(&frame(number, 60)).unwrap();
            bench.leaving.push_back(made);
        }

        let output = bench.output.as_mut().unwrap();
        output.transmit(&mut bench.region, &mut bench.leaving).unwrap();

        assert_eq!(bench.leaving.len(), 500 - 64);
        assert!(bench.out().statistics().unwrap().port.back_pressure > 0);
        bench.check_conservation();
        bench.release();
        for number in 0..500 {
            assert_eq!(c.next(), Some(frame(number, 60)));
        }
        bench.finish();
    });
}

#[test]
fn chunks_complete_on_the_ring_of_the_device_that_sent_them() {
    in_namespace(|| {
        let (a, _c) = (veth("pri"), veth("nic"));
        let mut bench = Bench::new(RegionConfig { frames: 256, ..small() });
        bench.input(XskOptions { receive_frames: 128, ..copy("pri") });
        bench.output(XskOptions { receive_frames: 0, ..copy("nic") });
        // Far more frames than chunks: each must come back from the output to the input.
        for number in 0..2000 {
            a.send(&frame(number, 60));
            bench.hold(1);
            bench.release();
        }
        assert_eq!(bench.out().statistics().unwrap().port.completed, 2000);
        assert_eq!(bench.inputs[0].statistics().unwrap().port.completed, 0);
        bench.finish();
    });
}

#[test]
fn a_removed_device_is_noticed_closed_without_loss_and_opened_again() {
    in_namespace(|| {
        let a = veth("pri");
        let c = veth("nic");
        let mut bench = Bench::new(small());
        bench.input(copy("pri"));
        bench.output(copy("nic"));
        a.send(&frame(0, 60));
        bench.hold(1);
        assert!(bench.inputs[0].is_alive());

        ip("link del pri");

        let gone = bench.inputs[0].check().unwrap_err();
        assert!(matches!(&gone, PortError::DeviceGone { device, .. } if device == "pri"), "{gone}");
        bench.inputs.remove(0).close(&mut bench.region);
        bench.redirects.clear();
        bench.check_conservation();
        assert_eq!(bench.region.audit().receive[0], 0);
        bench.release();
        assert_eq!(c.next(), Some(frame(0, 60)), "what was held still leaves");

        let a = veth("pri");
        bench.input(copy("pri"));
        a.send(&frame(1, 60));
        bench.hold(1);
        assert_eq!(bench.bytes(&bench.held[0]), frame(1, 60));
        bench.finish();
    });
}

#[test]
fn sending_on_a_removed_device_says_so_and_the_frames_come_back() {
    in_namespace(|| {
        let _c = veth("nic");
        let mut bench = Bench::new(small());
        bench.output(copy("nic"));
        ip("link del nic");
        for number in 0..10 {
            let made = bench.region.allocate(&frame(number, 3000)).unwrap();
            bench.leaving.push_back(made);
        }
        let mut output = bench.output.take().unwrap();

        let error = output.transmit(&mut bench.region, &mut bench.leaving).unwrap_err();

        assert!(matches!(error, PortError::DeviceGone { .. }), "{error}");
        assert_eq!(output.in_flight().transmit + 2 * bench.leaving.len(), 20);
        output.close(&mut bench.region);
        bench.finish();
    });
}

#[test]
fn a_device_that_is_down_keeps_its_frames_until_it_is_up() {
    in_namespace(|| {
        let c = veth("nic");
        let mut bench = Bench::new(small());
        bench.output(copy("nic"));
        ip("link set nic down");
        let made = bench.region.allocate(&frame(7, 60)).unwrap();
        bench.leaving.push_back(made);
        let output = bench.output.as_mut().unwrap();
        output.transmit(&mut bench.region, &mut bench.leaving).unwrap();
        assert!(output.statistics().unwrap().port.device_down > 0);
        assert_eq!(output.in_flight().transmit, 1);

        ip("link set nic up");
        bench.release();

        assert_eq!(c.next(), Some(frame(7, 60)));
        bench.finish();
    });
}

#[test]
fn the_port_opened_first_can_be_closed_and_opened_again_while_others_run() {
    in_namespace(|| {
        let (a, b, c) = (veth("pri"), veth("sec"), veth("nic"));
        let mut bench = Bench::new(small());
        bench.input(copy("pri"));
        bench.input(copy("sec"));
        bench.output(copy("nic"));
        for round in 0..3 {
            bench.inputs.remove(0).close(&mut bench.region);
            b.send(&frame(round, 60));
            bench.hold(1);
            bench.release();
            assert_eq!(c.next(), Some(frame(round, 60)));

            let port = XskPort::open(&mut bench.region, copy("pri")).unwrap();
            bench.redirects[0].to(0, &port);
            bench.inputs.insert(0, port);
            a.send(&frame(round, 70));
            bench.hold(1);
            bench.release();
            assert_eq!(c.next(), Some(frame(round, 70)));
        }
        bench.finish();
    });
}

#[test]
fn zero_copy_falls_back_aloud_on_auto_and_is_an_error_when_demanded() {
    in_namespace(|| {
        let _c = veth("nic");
        let mut bench = Bench::new(small());
        let demanded = XskOptions { zero_copy: ZeroCopy::On, ..copy("nic") };
        let error = XskPort::open(&mut bench.region, demanded).unwrap_err();
        assert_eq!(error.kind(), XskErrorKind::Device);
        assert!(error.to_string().contains("zerocopy=auto"), "{error}");

        bench.output(copy("nic"));
        let obtained = bench.out().obtained();
        assert!(!obtained.zero_copy && !obtained.own_memory);
        assert!(obtained.zero_copy_refused.is_some());
        bench.output.take().unwrap().close(&mut bench.region);

        bench.output(XskOptions { zero_copy: ZeroCopy::Off, ..copy("nic") });
        assert_eq!(bench.out().obtained().zero_copy_refused, None);
        bench.finish();
    });
}

#[test]
fn ports_with_memory_of_their_own_copy_and_lose_nothing() {
    in_namespace(|| {
        let (a, c) = (veth("pri"), veth("nic"));
        let mut bench = Bench::new(small());
        bench.input(XskOptions { own_memory: true, ..copy("pri") });
        bench.output(XskOptions { own_memory: true, tx_ring: 64, ..copy("nic") });
        assert!(bench.out().obtained().own_memory);
        for length in [60, 1514, 1793, 9000] {
            for number in 0..100 {
                a.send(&frame(number, length));
                bench.hold(number + 1);
            }
            bench.release();
            for number in 0..100 {
                assert_eq!(c.next(), Some(frame(number, length)), "{number} of length {length}");
            }
        }
        bench.service();
        for port in bench.inputs.iter().chain(&bench.output) {
            let audit = port.own_audit().unwrap();
            assert_eq!(audit.free + audit.receiving(), audit.total);
        }
        bench.finish();
    });
}

#[test]
fn what_cannot_be_opened_is_explained() {
    in_namespace(|| {
        let _a = veth("pri");
        let mut bench = Bench::new(small());
        bench.output(copy("pri"));
        let mut refused = |options| XskPort::open(&mut bench.region, options).unwrap_err();

        let twice = refused(copy("pri"));
        let missing = refused(copy("nowhere"));
        let queue = refused(XskOptions { queue: 9, ..copy("pri") });

        for (error, word) in [(&twice, "another"), (&missing, "no such"), (&queue, "queue 9")] {
            assert_eq!(error.kind(), XskErrorKind::Device, "{error}");
            assert!(error.to_string().contains(word), "{error}");
        }
        let mut other = Bench::new(small());
        let taken = XskPort::open(&mut other.region, copy("pri")).unwrap_err();
        assert!(taken.to_string().contains("another AF_XDP socket"), "{taken}");
        let odd = Region::new(RegionConfig { frame_size: 3000, ..small() }).unwrap_err();
        assert!(odd.to_string().contains("2048 or 4096"), "{odd}");
        bench.finish();
    });
}

#[test]
#[cfg(debug_assertions)]
fn a_frame_that_is_dropped_is_counted() {
    in_namespace(|| {
        let mut bench = Bench::new(RegionConfig { frames: 16, ..small() });
        drop(bench.region.allocate(&[0; 60]));
        assert_eq!(UmemFrame::leaked(), 1);
        assert_eq!(bench.region.audit().user, 1);
    });
}
