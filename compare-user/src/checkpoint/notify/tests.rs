use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::Receiver;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::checkpoint::NOTICES;

const PATIENCE: Duration = Duration::from_secs(5);

fn directory() -> TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn agent(spec: &str, vnet: bool) -> (Agent<NotifyStatus>, Receiver<Notice>) {
    let (notices, heard) = crossbeam_channel::bounded(NOTICES);
    let spec: NotifySpec = spec.parse().expect("well formed");
    (start(&spec, vnet, notices).expect("listens or connects"), heard)
}

/// A comparator that listens on `path`, and its peer.
fn served(path: &Path, vnet: bool) -> (Agent<NotifyStatus>, Receiver<Notice>, UnixStream) {
    let (agent, heard) = agent(&format!("chardev:unix:{},server", path.display()), vnet);
    let peer = UnixStream::connect(path).expect("it listens");
    peer.set_read_timeout(Some(PATIENCE)).expect("a socket");
    assert!(matches!(next(&heard), Notice::Connected { .. }));
    (agent, heard, peer)
}

fn next(heard: &Receiver<Notice>) -> Notice {
    heard.recv_timeout(PATIENCE).expect("a notice")
}

fn lost_because(heard: &Receiver<Notice>) -> String {
    match next(heard) {
        Notice::Lost { cause, .. } => cause,
        other => panic!("{other:?} instead of a loss"),
    }
}

fn expect(peer: &mut impl io::Read, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    peer.read_exact(&mut read).expect("the peer is told");
    assert_eq!(String::from_utf8_lossy(&read), String::from_utf8_lossy(bytes));
}

/// A message of the peer; with `vnet` it carries the word.
fn message(text: &[u8], vnet: bool) -> Vec<u8> {
    let length = u32::try_from(text.len()).expect("short").to_be_bytes();
    let word = if vnet { &[0; 4][..] } else { &[] };
    [&length, word, text].concat()
}

fn await_status(agent: &Agent<NotifyStatus>, what: &str, condition: impl Fn(&Value) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition(&agent.status()) {
        assert!(Instant::now() < deadline, "waited in vain for {what}: {}", agent.status());
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_request_is_do_checkpoint_and_colo_checkpoint_is_its_end() {
    for vnet in [false, true] {
        let directory = directory();
        let (agent, heard, mut peer) = served(&directory.path().join("n"), vnet);
        agent.request();
        expect(&mut peer, b"\0\0\0\x0dDO_CHECKPOINT");
        peer.write_all(&message(b"COLO_CHECKPOINT", vnet)).expect("read");
        assert_eq!(next(&heard), Notice::Done);
        // No reply: what comes next is the answer to something else.
        peer.write_all(&message(b"COLO_USERSPACE_PROXY_INIT", vnet)).expect("read");
        expect(&mut peer, b"\0\0\0\x19COLO_COMPARE_GET_XEN_INIT");
        let status = agent.status();
        assert_eq!((&status["requests"], &status["checkpoints"]), (&1.into(), &1.into()));
    }
}

#[test]
fn messages_arrive_whole_however_they_are_cut() {
    let directory = directory();
    let (_agent, heard, mut peer) = served(&directory.path().join("n"), true);
    for byte in message(b"COLO_CHECKPOINT", true) {
        peer.write_all(&[byte]).expect("read");
    }
    assert_eq!(next(&heard), Notice::Done);
    peer.write_all(&message(b"COLO_CHECKPOINT", true).repeat(3)).expect("read");
    for _ in 0..3 {
        assert_eq!(next(&heard), Notice::Done);
    }
}

#[test]
fn what_is_not_known_is_counted_and_ignored() {
    let directory = directory();
    let (agent, heard, mut peer) = served(&directory.path().join("n"), false);
    for text in [&b"HELLO"[..], b"COLO_CHECKPOINT\0", b"colo_checkpoint", b"\xff\xfe"] {
        peer.write_all(&message(text, false)).expect("read");
    }
    peer.write_all(&message(b"COLO_CHECKPOINT", false)).expect("read");
    assert_eq!(next(&heard), Notice::Done, "and nothing else before it");
    assert_eq!(agent.status()["unknown"], 4);
}

#[test]
fn a_peer_at_fault_is_disconnected_and_the_next_one_is_served() {
    let directory = directory();
    let path = directory.path().join("n");
    let (agent, heard, first) = served(&path, true);
    let faults: [&[u8]; 4] =
        [&[0; 4], &[0, 1, 0x10, 1], b"GET / HTTP/1.1\r\n", &[0, 0, 0, 1, 255, 255, 255, 255]];
    let mut peer = first;
    for fault in faults {
        peer.write_all(fault).expect("read");
        let cause = lost_because(&heard);
        assert!(cause.starts_with("it sent a"), "{cause}");
        // A reset, when what it sent was not read to the end.
        assert!(matches!(peer.read(&mut [0; 1]), Ok(0) | Err(_)), "the peer is told nothing");
        peer = UnixStream::connect(&path).expect("it listens");
        assert!(matches!(next(&heard), Notice::Connected { .. }));
    }
    peer.write_all(&message(b"COLO_CHECKPOINT", true)).expect("read");
    assert_eq!(next(&heard), Notice::Done);
    assert_eq!(agent.status()["faults"], 4);
}

#[test]
fn a_peer_that_ends_inside_a_message_leaves_nothing_behind() {
    let directory = directory();
    let path = directory.path().join("n");
    let (_agent, heard, mut peer) = served(&path, false);
    peer.write_all(&message(b"COLO_CHECKPOINT", false)[..9]).expect("read");
    drop(peer);
    lost_because(&heard);
    let mut peer = UnixStream::connect(&path).expect("it listens");
    peer.write_all(&message(b"COLO_CHECKPOINT", false)).expect("read");
    assert!(matches!(next(&heard), Notice::Connected { .. }));
    assert_eq!(next(&heard), Notice::Done);
}

#[test]
fn a_client_connects_when_the_peer_comes_and_again_when_it_returns() {
    let directory = directory();
    let path = directory.path().join("n");
    let (agent, heard) = agent(&format!("chardev:unix:{}", path.display()), false);
    agent.request();
    await_status(&agent, "the request to be missed", |status| status["requests_unsent"] == 1);
    let listener = UnixListener::bind(&path).expect("the directory is ours");
    for round in 1..=2 {
        let (mut peer, _) = listener.accept().expect("it connects");
        assert!(matches!(next(&heard), Notice::Connected { .. }));
        // The request that found nobody is not kept: the first to come is this one.
        agent.request();
        expect(&mut peer, b"\0\0\0\x0dDO_CHECKPOINT");
        assert_eq!(agent.status()["requests"], round);
        drop(peer);
        assert_eq!(lost_because(&heard), "it closed the connection");
    }
}

#[test]
fn tcp_works_either_way() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let port = listener.local_addr().expect("bound").port();
    let (client, heard) = agent(&format!("chardev:tcp:127.0.0.1:{port}"), false);
    let (mut peer, _) = listener.accept().expect("it connects");
    assert!(matches!(next(&heard), Notice::Connected { .. }));
    client.request();
    expect(&mut peer, b"\0\0\0\x0dDO_CHECKPOINT");
    drop((client, peer, listener));

    let (_server, heard) = agent(&format!("chardev:tcp:127.0.0.1:{port},server"), false);
    let mut peer = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
    peer.write_all(&message(b"COLO_CHECKPOINT", false)).expect("read");
    assert!(matches!(next(&heard), Notice::Connected { .. }));
    assert_eq!(next(&heard), Notice::Done);
}

#[test]
fn a_peer_that_does_not_read_is_not_written_to_without_bound() {
    let directory = directory();
    let (agent, _heard, mut peer) = served(&directory.path().join("n"), false);
    // Its answers are not read, so at some point its questions are not either.
    peer.set_write_timeout(Some(Duration::from_millis(300))).expect("a socket");
    let hellos = message(b"COLO_USERSPACE_PROXY_INIT", false).repeat(1000);
    let mut sent = 0;
    while peer.write_all(&hellos).is_ok() {
        sent += hellos.len();
        assert!(sent < 64 << 20, "it goes on taking questions without end");
    }
    // It is still there.
    agent.request();
    assert_eq!(agent.status()["connected"], true);
}

#[test]
fn the_listening_socket_is_private_and_goes_with_the_agent() {
    let directory = directory();
    let path = directory.path().join("n");
    let (agent, heard, peer) = served(&path, false);
    let mode = std::fs::metadata(&path).expect("bound").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    drop(heard);
    drop(agent);
    assert!(!path.exists());
    assert!(matches!((&peer).read(&mut [0; 1]), Ok(0)), "the connection ends too");
}

#[test]
fn a_flood_of_checkpoints_waits_until_they_are_acted_on() {
    let directory = directory();
    let (agent, heard, mut peer) = served(&directory.path().join("n"), false);
    let many = 10 * NOTICES;
    peer.write_all(&message(b"COLO_CHECKPOINT", false).repeat(many)).expect("small enough");
    for _ in 0..many {
        assert_eq!(next(&heard), Notice::Done);
    }
    assert_eq!(agent.status()["checkpoints"], many);
}
