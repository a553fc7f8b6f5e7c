//! The underlay of a tunnel: next hops that answer, that do not, and that move.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use compare_user::kernel::{KernelError, TunnelSpec, Underlay};

use crate::network::{device, in_namespace, ip, veth, wait_until};

/// Another host: a network namespace that lives as long as the value.
struct Host {
    errands: Sender<Box<dyn FnOnce() + Send>>,
    done: Receiver<()>,
    /// Of the thread in it, which is how `ip` finds it.
    thread: i32,
}

impl Host {
    fn new() -> Self {
        let (errands, received) = channel::<Box<dyn FnOnce() + Send>>();
        let (finished, done) = channel();
        let (sender, thread) = channel();
        std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            sender.send(nix::unistd::gettid().as_raw()).unwrap();
            for errand in received {
                errand();
                finished.send(()).unwrap();
            }
        });
        let thread = thread.recv().unwrap();
        Self { errands, done, thread }
    }

    /// Runs `ip` there.
    fn ip(&self, arguments: &str) {
        let arguments = arguments.to_owned();
        self.errands.send(Box::new(move || ip(&arguments))).unwrap();
        self.done.recv().unwrap();
    }

    /// Takes a device of this namespace over.
    fn take(&self, device: &str) {
        ip(&format!("link set {device} netns {}", self.thread));
        self.ip(&format!("link set {device} up"));
    }
}

/// Both families on a device; no waiting for duplicate address detection.
fn addresses(device: &str, subnet: u8, host: u8) -> [String; 3] {
    [
        format!("link set {device} addrgenmode none"),
        format!("address add 10.0.{subnet}.{host}/24 dev {device}"),
        format!("address add fd00:{subnet}::{host}/64 dev {device} nodad"),
    ]
}

/// A veth to another host, `nic` here and `far` there, with IPv6.
fn connected() -> Host {
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "0").unwrap();
    veth("nic", "far");
    let host = Host::new();
    host.take("far");
    addresses("nic", 1, 1).iter().for_each(|arguments| ip(arguments));
    addresses("far", 1, 2).iter().for_each(|arguments| host.ip(arguments));
    host.ip("link set far address 02:00:00:00:00:02");
    ip("link set nic address 02:00:00:00:00:01");
    host
}

fn tunnel(local: &str, remote: &str) -> TunnelSpec {
    format!("vni=42,local={local},remote={remote}").parse().unwrap()
}

fn resolve(tunnel: &TunnelSpec) -> Option<Underlay> {
    tunnel.resolve(&device("nic")).unwrap()
}

const RESOLVED: Underlay =
    Underlay { local_mac: [2, 0, 0, 0, 0, 1], remote_mac: [2, 0, 0, 0, 0, 2] };

#[test]
fn a_neighbour_that_nobody_knew_is_asked_and_then_known_in_both_families() {
    in_namespace(|| {
        let _host = connected();
        for (local, remote) in [("10.0.1.1", "10.0.1.2"), ("fd00:1::1", "fd00:1::2")] {
            let tunnel = tunnel(local, remote);
            assert_eq!(resolve(&tunnel), None, "nobody has asked yet");
            wait_until(|| resolve(&tunnel).is_some());
            assert_eq!(resolve(&tunnel), Some(RESOLVED));
        }
    });
}

#[test]
fn behind_a_router_it_is_the_router_whose_address_counts() {
    in_namespace(|| {
        let router = connected();
        router.ip("link add beyond type veth peer name farther");
        ip("route add 10.0.2.0/24 via 10.0.1.2");
        ip("route add fd00:2::/64 via fd00:1::2");
        for (local, remote) in [("10.0.1.1", "10.0.2.2"), ("fd00:1::1", "fd00:2::2")] {
            let tunnel = tunnel(local, remote);
            wait_until(|| resolve(&tunnel).is_some());
            assert_eq!(resolve(&tunnel), Some(RESOLVED));
        }
    });
}

#[test]
fn a_stale_neighbour_is_known_and_a_moved_one_is_noticed() {
    in_namespace(|| {
        let host = connected();
        ip("neighbour add 10.0.1.2 dev nic lladdr 02:00:00:00:00:09 nud stale");
        let tunnel = tunnel("10.0.1.1", "10.0.1.2");
        let before = resolve(&tunnel).unwrap();
        assert_eq!(before.remote_mac, [2, 0, 0, 0, 0, 9]);
        // The kernel waits for a sign of life, then asks; shorter than its five seconds.
        host.ip("neighbour add 10.0.1.1 dev far lladdr 02:00:00:00:00:01");
        std::fs::write("/proc/sys/net/ipv4/neigh/nic/delay_first_probe_time", "1").unwrap();
        ip("neighbour change 10.0.1.2 dev nic lladdr 02:00:00:00:00:09 nud stale");
        wait_until(|| resolve(&tunnel) == Some(RESOLVED));
    });
}

#[test]
fn a_neighbour_that_never_answers_stays_unknown() {
    in_namespace(|| {
        let _host = connected();
        let tunnel = tunnel("10.0.1.1", "10.0.1.77");
        for _ in 0..5 {
            assert_eq!(resolve(&tunnel), None);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_device_in_a_bridge_uses_the_bridge_s_neighbours() {
    in_namespace(|| {
        let _host = connected();
        ip("address flush dev nic");
        ip("link add bridge type bridge");
        ip("link set nic master bridge");
        ip("link set bridge up");
        ip("address add 10.0.1.1/24 dev bridge");
        let tunnel = tunnel("10.0.1.1", "10.0.1.2");
        wait_until(|| resolve(&tunnel).is_some());
        assert_eq!(resolve(&tunnel), Some(RESOLVED));
    });
}

#[test]
fn ways_that_lead_nowhere_are_errors_that_name_the_cause() {
    in_namespace(|| {
        let _host = connected();
        veth("other", "end");
        ip("route add fd00:9::/64 dev other");
        for (local, remote, said) in [
            ("10.0.1.7", "10.0.1.2", "10.0.1.7 is no address of this host"),
            ("fd00:1::7", "fd00:1::2", "fd00:1::7 is no address of this host"),
            ("fd00:1::1", "fd00:77::1", "ip route get fd00:77::1 from fd00:1::1 oif nic"),
            ("fd00:1::1", "fd00:9::1", "fd00:9::1"),
        ] {
            let refused = tunnel(local, remote).resolve(&device("nic")).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
            assert!(!refused.contains('\n'), "{refused}");
        }
        let gone = device("nic");
        ip("link del nic");
        let error = tunnel("10.0.1.1", "10.0.1.2").resolve(&gone).unwrap_err();
        assert!(matches!(error, KernelError::NoDevice { .. }), "{error}");
    });
}
