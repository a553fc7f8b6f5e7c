//! Chardev framing: whatever the stream and wherever it is cut, the same frames come out as a
//! second reader finds in it, a fault is found as early, and no byte is lost or made up.

use compare_user::port::chardev::framing::{Framing, Inbox, LONGEST_HEADER};

use crate::pieces::Pieces;
use crate::{memory, stream};

/// Capacity that the inboxes are asked for; they hold at least one longest message.
const CAPACITY: usize = 4096;

/// Input: whether there are vnet headers, then [pieces](crate::pieces).
pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    let vnet = kind & 1 == 1;
    let pieces = Pieces::read(rest);
    let expected = stream::read(pieces.stream, vnet, LONGEST_HEADER);

    let mut inbox = Inbox::new(Framing { vnet }, CAPACITY);
    let mut received = Vec::new();
    let mut sizes = pieces.sizes();
    let mut rest = pieces.stream;
    let mut taken_in_all = 0;
    let fault = loop {
        let (found, usage) = memory::used(|| inbox.message());
        assert_eq!(usage.allocations, 0, "finding a message takes no memory");
        match found {
            Err(_) => break true,
            Ok(Some((message, taken))) => {
                received.push((message.header.to_vec(), message.body.to_vec()));
                taken_in_all += taken;
                inbox.take(taken);
            }
            Ok(None) if rest.is_empty() => break false,
            Ok(None) => {
                let room = inbox.room();
                assert!(!room.is_empty(), "a whole message always has room");
                let count = sizes.next().unwrap_or(1).min(room.len()).min(rest.len());
                room[..count].copy_from_slice(&rest[..count]);
                inbox.filled(count);
                rest = &rest[count..];
            }
        }
    };

    let received_as_slices: Vec<stream::Message<'_>> =
        received.iter().map(|(header, body)| (header.as_slice(), body.as_slice())).collect();
    assert_eq!(received_as_slices, expected.messages, "the frames of a second reader");
    assert_eq!(fault, expected.fault, "the fault of a second reader");
    assert_eq!(taken_in_all, expected.taken);
    assert_eq!(taken_in_all + inbox.waiting() + rest.len(), pieces.stream.len(), "no byte lost");
    let mut again = Vec::new();
    for (header, body) in &received {
        again.extend_from_slice(Framing { vnet }.words(header.len(), body.len()).as_ref());
        again.extend_from_slice(header);
        again.extend_from_slice(body);
    }
    assert_eq!(again, pieces.stream[..expected.taken], "written again it is the same stream");
}
