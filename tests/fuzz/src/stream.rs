//! The framing of a chardev stream, read a second time: written from QEMU's documented format
//! (DESIGN.md section 5.1), without a look at the product's decoder.

/// One message: the vnet header and what follows it.
pub(crate) type Message<'a> = (&'a [u8], &'a [u8]);

/// Longest message that QEMU's network layer takes.
pub(crate) const LONGEST: usize = 69_632;

/// What a stream contains.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reading<'a> {
    /// Its whole messages.
    pub(crate) messages: Vec<Message<'a>>,
    /// Bytes that they take.
    pub(crate) taken: usize,
    /// The words after them cannot be.
    pub(crate) fault: bool,
}

/// Reads as many messages as there are. A vnet header longer than `longest_header` is a fault.
pub(crate) fn read(stream: &[u8], vnet: bool, longest_header: usize) -> Reading<'_> {
    let mut reading = Reading { messages: Vec::new(), taken: 0, fault: false };
    let mut rest = stream;
    while let Some((length, behind)) = word(rest) {
        if length == 0 || length > LONGEST {
            reading.fault = true;
            break;
        }
        let mut words = 4;
        let (mut header, mut content) = (0, behind);
        if vnet {
            let Some((second, behind)) = word(behind) else { break };
            if second > length || second > longest_header {
                reading.fault = true;
                break;
            }
            (header, content, words) = (second, behind, 8);
        }
        if content.len() < length {
            break;
        }
        let (message, behind) = content.split_at(length);
        reading.messages.push(message.split_at(header));
        reading.taken += words + length;
        rest = behind;
    }
    reading
}

/// The messages of a reading, written again.
pub(crate) fn written(messages: &[Message<'_>], vnet: bool) -> Vec<u8> {
    let mut stream = Vec::new();
    for (header, body) in messages {
        stream.extend(((header.len() + body.len()) as u32).to_be_bytes());
        if vnet {
            stream.extend((header.len() as u32).to_be_bytes());
        }
        stream.extend_from_slice(header);
        stream.extend_from_slice(body);
    }
    stream
}

fn word(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (word, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*word) as usize, rest))
}
