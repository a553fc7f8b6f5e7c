//! notify_dev: the peer's messages are read as the framing of frames is, however they are cut, and
//! what is stored of them never exceeds one message and one piece.

use compare_user::checkpoint::message::{LONGEST, MessageReader};
use compare_user::checkpoint::notify::Heard;

use crate::pieces::Pieces;
use crate::{memory, stream};

/// Words in front of a message.
const WORDS: usize = 8;

/// Input: whether there is a vnet word, then [pieces](crate::pieces).
pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let vnet = kind & 1 == 1;
    let pieces = Pieces::read(rest);
    // Here a header is as long as its message at most, and no part of the text is left out.
    let expected = stream::read(pieces.stream, vnet, LONGEST);

    let mut reader = MessageReader::new(vnet);
    let mut messages = expected.messages.iter();
    let mut arrived = 0;
    let mut largest = 0;
    let mut fault = false;
    let ((), usage) = memory::used(|| {
        'stream: for piece in pieces.iter() {
            reader.push(piece);
            arrived += piece.len();
            largest = largest.max(reader.waiting());
            assert!(reader.waiting() < LONGEST + WORDS + piece.len(), "one message, one piece");
            loop {
                match reader.next_message() {
                    Ok(None) => break,
                    Ok(Some(message)) => {
                        let (header, body) = messages.next().expect("a message that was sent");
                        assert!(message.starts_with(header) && message.ends_with(body));
                        assert_eq!(message.len(), header.len() + body.len());
                        check_meaning(&message);
                    }
                    Err(_) => {
                        fault = true;
                        break 'stream;
                    }
                }
            }
        }
    });
    assert_eq!(messages.next(), None, "every message of a second reader");
    assert_eq!(fault, expected.fault, "the fault of a second reader");
    assert_eq!(arrived - reader.waiting(), expected.taken, "no byte lost");
    // A growing buffer doubles, and the old one is there while its bytes move; a message is copied.
    assert!(usage.peak <= 4 * largest + 1024, "{usage:?} for {largest} bytes that waited");
}

fn check_meaning(message: &[u8]) {
    let expected = match message {
        b"COLO_CHECKPOINT" => Heard::CheckpointDone,
        b"COLO_USERSPACE_PROXY_INIT" => Heard::Hello,
        _ => Heard::Unknown,
    };
    assert_eq!(Heard::in_message(message), expected);
}
