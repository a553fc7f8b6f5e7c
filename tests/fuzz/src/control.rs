//! The control socket: every line gets exactly one answer, an object with `"ok"`, in order; what is
//! no request is refused with a reason; and a request that is understood can be written again.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use compare_user::control::{self, Call, LONGEST_LINE, Request};
use compare_user::kernel::BypassRule;
use crossbeam_channel::Sender;
use serde_json::{Value, json};

use crate::memory;

/// Input: two bytes, how many `x` the first line begins with (so that a few bytes make a line that is
/// too long), then what the client writes before it closes its end.
pub fn check(input: &[u8]) {
    let Some((&[low, high], rest)) = input.split_first_chunk() else { return };
    let sent = [&vec![b'x'; u16::from_le_bytes([low, high]).into()], rest].concat();
    // Written in one go before anything is read: more than this a socket may not take.
    let sent = &sent[..sent.len().min(100_000)];

    let expected = expected_answers(sent);
    let answers = converse(sent);
    let answers: Vec<&str> = answers.lines().collect();
    assert_eq!(answers.len(), expected.len(), "one answer a line: {answers:?}");
    for (answer, expected) in answers.iter().zip(expected) {
        let answer: Value = serde_json::from_str(answer).expect("an answer is JSON");
        match expected {
            Some(request) => assert_eq!(answer, json!({ "ok": true, "asked": request })),
            None => assert!(answer["ok"] == false && answer["error"].is_string(), "{answer}"),
        }
    }
}

/// What each line asks for, up to the one that ends the conversation.
fn expected_answers(sent: &[u8]) -> Vec<Option<Value>> {
    let mut answers = Vec::new();
    for line in sent.split_inclusive(|&byte| byte == b'\n') {
        let longest = LONGEST_LINE as usize;
        if line.len() > longest || !line.ends_with(b"\n") {
            answers.push(None);
            break;
        }
        answers.push(understood(line));
    }
    answers
}

/// The request in a line, if there is one.
fn understood(line: &[u8]) -> Option<Value> {
    let (request, usage) = memory::used(|| serde_json::from_slice::<Request>(line));
    // An error message quotes what it did not expect.
    assert!(usage.peak <= 8 * line.len() + 2048, "{usage:?} for {} bytes", line.len());
    let request = request.ok()?;
    let written = serde_json::to_value(&request).expect("a request can be written");
    let again: Request = serde_json::from_value(written.clone()).expect("and read again");
    assert_eq!(again, request);
    if let Request::BypassAdd { rule } | Request::BypassDelete { rule } = &request {
        check_rule(rule);
    }
    Some(written)
}

fn check_rule(text: &str) {
    if let Ok(rule) = text.parse::<BypassRule>() {
        let again = rule.to_string().parse::<BypassRule>();
        assert_eq!(again, Ok(rule), "a rule that is shown can be given again: {rule}");
    }
}

/// Everything that a client is answered that writes `sent` and closes its end.
fn converse(sent: &[u8]) -> String {
    let (mut client, served) = UnixStream::pair().expect("a socket pair");
    server().send(served).expect("the server never ends");
    // The server closes when a line is too long; the rest of what is written has no reader then.
    let _ = client.write_all(sent);
    let _ = client.shutdown(Shutdown::Write);
    let mut answers = String::new();
    match client.read_to_string(&mut answers) {
        Ok(_) => {}
        // Closed with bytes unread, which is a reset; the answers before it have arrived.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    answers
}

/// Two threads for the whole process: one serves clients one after the other, one takes the calls
/// that they make, as the supervisor of a comparator does.
fn server() -> &'static Sender<UnixStream> {
    static SERVER: OnceLock<Sender<UnixStream>> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (calls, requests) = crossbeam_channel::unbounded::<Call>();
        std::thread::spawn(move || {
            for call in requests {
                let answer = json!({ "asked": call.request });
                call.reply.send(Ok(answer)).expect("the caller waits");
            }
        });
        let (clients, served) = crossbeam_channel::unbounded::<UnixStream>();
        std::thread::spawn(move || {
            for client in served {
                // An error is the client's: it went away before it had its answers.
                let _ = control::serve(&client, &calls);
            }
        });
        clients
    })
}
