//! The control socket, and those who misuse it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::packet::Packet;
use colo_tests::{Comparator, Result, Stage, needs_root};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(15);

fn client(comparator: &Comparator) -> Result<UnixStream> {
    let stream = UnixStream::connect(comparator.control_path())?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn answer(stream: &UnixStream) -> Result<Value> {
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).with_context(|| format!("answered: {line:?}"))
}

#[test]
fn garbage_is_refused_with_a_reason_and_the_client_may_go_on() -> Result {
    needs_root!();
    let stage = Stage::plain(&[])?;
    let mut stream = client(&stage.comparator)?;
    let garbage: [&[u8]; 8] = [
        b"\n",
        b"\xff\xfe\x00\n",
        b"{]\n",
        b"[]\n",
        b"{\"command\":\"explode\"}\n",
        b"{\"command\":\"flows\",\"limit\":-1}\n",
        b"{\"command\":\"log\",\"level\":\"verbose\"}\n",
        b"{\"command\":\"bypass-add\",\"rule\":\"everything\"}\n",
    ];
    for sent in garbage {
        stream.write_all(sent)?;
        let refused = answer(&stream)?;
        assert_eq!(refused["ok"], false, "{sent:?}: {refused}");
        assert!(refused["error"].is_string(), "{refused}");
    }
    stream.write_all(b"{\"command\":\"status\"}\n")?;
    assert_eq!(answer(&stream)?["ok"], true);
    stage.finish()?;
    Ok(())
}

#[test]
fn a_half_line_and_a_line_of_a_megabyte_are_answered_and_closed() -> Result {
    needs_root!();
    let stage = Stage::plain(&[])?;
    let mut half = client(&stage.comparator)?;
    half.write_all(b"{\"command\":\"checkpoint\"}")?;
    half.shutdown(Shutdown::Write)?;
    assert_eq!(answer(&half)?["error"], "half a line");
    assert_eq!(half.read(&mut [0; 1])?, 0);

    let mut long = client(&stage.comparator)?;
    // It may answer and close before it has read everything.
    let _ = long.write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(answer(&long)?["error"], "line too long");
    let status = stage.comparator.status()?;
    assert_eq!(status.count("checkpoints"), 0, "what was not complete was not done");
    stage.finish()?;
    Ok(())
}

#[test]
fn a_hundred_clients_at_once_are_all_answered_while_frames_pass() -> Result {
    needs_root!();
    let mut stage = Stage::plain(&[])?;
    // All of them are connected before the first asks.
    let clients = (0..100).map(|_| client(&stage.comparator)).collect::<Result<Vec<_>>>()?;
    let askers: Vec<_> = clients
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || -> Result<Value> {
                stream.write_all(b"{\"command\":\"status\"}\n")?;
                answer(&stream)
            })
        })
        .collect();
    let frames: Vec<_> = (0..64).map(|n| Packet::v4().udp(n, 2, b"meanwhile")).collect();
    stage.exchange(&frames)?;
    for asker in askers {
        let answered = asker.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        assert_eq!(answered["ok"], true, "{answered}");
    }
    stage.finish()?;
    Ok(())
}

#[test]
fn too_many_clients_are_told_so_and_those_that_leave_make_room() -> Result {
    needs_root!();
    let stage = Stage::plain(&[])?;
    let mut idle = (0..128).map(|_| client(&stage.comparator)).collect::<Result<Vec<_>>>()?;
    let refused = client(&stage.comparator)?;
    assert_eq!(answer(&refused)?["error"], "too many clients");
    idle.truncate(100);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut stream = client(&stage.comparator)?;
        // Refused, it may be closed before it has said anything.
        let _ = stream.write_all(b"{\"command\":\"status\"}\n");
        if answer(&stream)?["ok"] == true {
            break;
        }
        ensure!(Instant::now() < deadline, "those that left made no room");
    }
    drop(idle);
    stage.finish()?;
    Ok(())
}

#[test]
fn the_log_level_changes_while_it_runs() -> Result {
    needs_root!();
    let stage = Stage::plain(&[])?;
    let say_something = || -> Result {
        // A client that leaves in the middle is worth a line at debug level.
        let mut rude = client(&stage.comparator)?;
        rude.write_all(b"{\"command\":\"status\"}\n".repeat(200).as_slice())?;
        drop(rude);
        thread::sleep(Duration::from_millis(300));
        Ok(())
    };
    say_something()?;
    assert!(!stage.comparator.log().contains("control client left"));
    stage.comparator.control().call(&["log", "debug"])?;
    say_something()?;
    assert!(stage.comparator.log().contains("control client left"), "{}", stage.comparator.log());
    stage.comparator.control().call(&["log", "off"])?;
    let before = stage.comparator.log();
    say_something()?;
    assert_eq!(stage.comparator.log(), before);
    stage.finish()?;
    Ok(())
}
