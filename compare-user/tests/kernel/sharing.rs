//! Devices that several instances use.

use compare_user::kernel::{Claim, FaultKind, Mode, Pass, Passing, Steer};

use crate::network::{device, in_namespace, ip, options, veth, wait_until};

#[test]
fn a_queue_has_one_sender_and_a_device_several_beside_its_program() {
    in_namespace(|| {
        veth("nic", "wire");
        let _first = Claim::take_queue("nic", 0).unwrap();
        let _second = Claim::take_queue("nic", 1).unwrap();
        let error = Claim::take_queue("nic", 1).unwrap_err();
        assert_eq!(error.kind(), FaultKind::Device);
        assert!(error.to_string().contains("nic queue 1 is in use"), "{error}");
        let _program = Steer::attach(&options("nic", Mode::Auto)).unwrap();
        assert!(Claim::take("nic").is_err(), "a program's device is its own");
        let _third = Claim::take_queue("nic", 2).unwrap();
    });
}

#[test]
fn a_program_that_is_there_already_serves_and_is_replaced_when_it_goes() {
    in_namespace(|| {
        veth("nic", "wire");
        let nic = device("nic");
        let program = || device("nic").attached().unwrap().map(|found| found.program_id);
        let others = Pass::attach(&nic).unwrap();
        let first = program();
        let mut passing = Passing::ensure(&nic).unwrap();
        assert!(!passing.is_own());
        passing.tend().unwrap();
        assert_eq!(program(), first);

        drop(others);
        // A child that another test was just forking has a copy of the link until it calls exec.
        wait_until(|| program().is_none());
        passing.tend().unwrap();
        assert!(passing.is_own() && program().is_some());
        drop(passing);
        wait_until(|| program().is_none());
    });
}

#[test]
fn a_device_that_comes_back_gets_its_program_again() {
    in_namespace(|| {
        veth("nic", "wire");
        let mut passing = Passing::ensure(&device("nic")).unwrap();
        assert!(passing.is_own());
        ip("link del nic");
        passing.tend().unwrap();
        assert!(!passing.is_own());
        veth("nic", "wire");
        passing.tend().unwrap();
        assert!(passing.is_own() && device("nic").attached().unwrap().is_some());
    });
}
