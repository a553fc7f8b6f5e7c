//! `steer`, `pass` and their ways out.

use compare_user::kernel::{
    AttachOptions, EmptySlot, Mode, Outcome, Pass, Role, Standalone, Steer,
};

use super::classes::{CLIENT, Class, MALFORMED, SERVER, Sees, classes};
use super::run::{Counters, Program, Ran, XDP_DROP, XDP_PASS, XDP_REDIRECT, once};
use super::tunnel::{Arrives, Arriving, Underlay, arriving};
use crate::network::{device, in_namespace, options, veth};

/// The program on a device that nobody else sends to.
pub(super) struct Judge {
    pub(super) steer: Steer,
    program: Program,
    counters: Counters<Outcome>,
}

impl Judge {
    fn new(change: impl FnOnce(&mut AttachOptions)) -> Self {
        let mut options = options("guest", Mode::Native);
        change(&mut options);
        let steer = Steer::attach(&options).unwrap();
        let counters = Counters::from(steer.outcomes().unwrap().iter().collect());
        Self { steer, program: Program::on(&device("guest")), counters }
    }

    /// Runs a frame, which must come out as `after`, with these outcomes and no others.
    #[track_caller]
    pub(super) fn expect(
        &self,
        name: &str,
        frame: &[u8],
        after: &[u8],
        (action, outcomes): (u32, &[Outcome]),
    ) {
        let ran = self.program.run(frame);
        assert_eq!(ran, Ran { action, frame: after.to_vec() }, "{name}");
        let expected: Vec<_> = outcomes.iter().map(|outcome| once(*outcome, after)).collect();
        let outcomes = self.steer.outcomes().unwrap().iter().collect();
        assert_eq!(self.counters.moved(outcomes), expected, "{name}");
    }
}

#[test]
fn every_class_of_frame_goes_where_the_switches_say_and_is_counted_once() {
    in_namespace(|| {
        veth("guest", "inside");
        let classes = classes();
        let output = Some(device("inside").index);
        for empty_slot in [EmptySlot::Drop, EmptySlot::Pass] {
            let mut judge = Judge::new(|options| {
                options.empty_slot = empty_slot;
                options.output = output;
            });
            let no_socket = match empty_slot {
                EmptySlot::Drop => (XDP_DROP, Outcome::NoSocketDropped),
                EmptySlot::Pass => (XDP_PASS, Outcome::NoSocketPassed),
            };
            for (standalone, (action, outcome)) in [
                (Standalone::Off, no_socket),
                (Standalone::Forward, (XDP_REDIRECT, Outcome::StandaloneForwarded)),
                (Standalone::Drop, (XDP_DROP, Outcome::StandaloneDropped)),
            ] {
                judge.steer.set_standalone(standalone).unwrap();
                for Class { name, frame, .. } in &classes {
                    judge.expect(name, frame, frame, (action, &[outcome]));
                }
            }
        }
        let mut nowhere = Judge::new(|_| {});
        nowhere.steer.set_standalone(Standalone::Forward).unwrap();
        for Class { name, frame, .. } in &classes {
            nowhere.expect(name, frame, frame, (XDP_DROP, &[Outcome::NoOutput]));
        }
    });
}

/// Whether a rule is for a frame.
type IsFor = fn(&Class) -> bool;

/// Each rule, and which frames it is for.
fn rules() -> Vec<(&'static str, IsFor)> {
    fn ports(class: &Class) -> Option<(u16, u16)> {
        match class.sees {
            Sees::Ports(source, destination) => Some((source, destination)),
            _ => None,
        }
    }
    vec![
        ("addr=192.0.2.1,side=source", |class| class.sees != Sees::Nothing && !class.ipv6),
        ("addr=192.0.2.1,side=destination", |_| false),
        // The same address in the other byte order.
        ("addr=1.2.0.192", |_| false),
        ("addr=192.0.0.0/16,side=destination", |class| class.sees != Sees::Nothing && !class.ipv6),
        ("addr=2001:db8::2,side=destination", |class| class.sees != Sees::Nothing && class.ipv6),
        ("addr=2001:db8::/32", |class| class.sees != Sees::Nothing && class.ipv6),
        ("addr=120::b80d:0", |_| false),
        ("port=8080,side=source", |class| ports(class).is_some_and(|it| it.0 == SERVER)),
        ("port=40000,side=destination", |class| ports(class).is_some_and(|it| it.1 == CLIENT)),
        // 8080 in the other byte order.
        ("port=36895", |class| ports(class).is_some_and(|it| it.0 == SERVER.swap_bytes())),
        ("port=9,side=source", |class| ports(class).is_some_and(|it| it.0 == MALFORMED)),
        ("port=2304", |_| false),
        ("port=65535", |_| false),
    ]
}

#[test]
fn a_rule_finds_what_is_in_a_frame_and_nothing_in_one_that_is_cut() {
    in_namespace(|| {
        veth("guest", "inside");
        let classes = classes();
        for role in [Role::Primary, Role::Secondary] {
            let mut judge = Judge::new(|options| {
                options.role = role;
                options.output = Some(device("inside").index);
            });
            let bypassed = match role {
                Role::Primary => (XDP_REDIRECT, Outcome::Bypassed),
                Role::Secondary => (XDP_DROP, Outcome::BypassDropped),
            };
            // What a rule finds is the same on both sides: the secondary's needs few.
            let rules = rules().into_iter();
            let every = if role == Role::Primary { 1 } else { 7 };
            for (rule, is_for) in rules.step_by(every) {
                judge.steer.set_bypass(&[rule.parse().unwrap()]).unwrap();
                for class in &classes {
                    let name = format!("{rule} on {}", class.name);
                    let expected: (u32, &[Outcome]) = if is_for(class) {
                        (bypassed.0, &[bypassed.1])
                    } else if class.sees == Sees::Nothing {
                        (XDP_DROP, &[Outcome::NoSocketDropped, Outcome::Unparsed])
                    } else {
                        (XDP_DROP, &[Outcome::NoSocketDropped])
                    };
                    judge.expect(&name, &class.frame, &class.frame, expected);
                }
            }
        }
    });
}

#[test]
fn pass_passes_every_class_as_it_is() {
    in_namespace(|| {
        veth("guest", "inside");
        let _pass = Pass::attach(&device("inside")).unwrap();
        let program = Program::on(&device("inside"));
        for Class { name, frame, .. } in classes() {
            let expected = Ran { action: XDP_PASS, frame: frame.clone() };
            assert_eq!(program.run(&frame), expected, "{name}");
        }
    });
}

#[test]
fn a_link_that_is_a_tunnel_is_steered_by_what_is_in_it_and_the_host_gets_the_rest() {
    for underlay in Underlay::ALL {
        in_namespace(move || {
            veth("guest", "inside");
            let mut judge = Judge::new(|options| {
                options.role = Role::Secondary;
                options.tunnelled = true;
            });
            judge.steer.set_tunnel(&underlay.spec()).unwrap();
            for Arriving { name, frame, arrives } in arriving(underlay) {
                let (after, (action, outcome)) = match arrives {
                    Arrives::Inner(inner) => (inner, (XDP_DROP, Outcome::NoSocketDropped)),
                    Arrives::Host => (frame.clone(), (XDP_PASS, Outcome::Host)),
                    Arrives::OtherVni => (frame.clone(), (XDP_PASS, Outcome::OtherVni)),
                    Arrives::ForeignPeer => (frame.clone(), (XDP_PASS, Outcome::ForeignPeer)),
                    Arrives::Malformed => (frame.clone(), (XDP_DROP, Outcome::TunnelMalformed)),
                };
                judge.expect(&name, &frame, &after, (action, &[outcome]));
            }
        });
    }
}
