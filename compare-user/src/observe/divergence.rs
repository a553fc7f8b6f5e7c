//! A divergence as it is shown: the flow, where the outputs part, and the bytes around it.

use std::fmt::{self, Write as _};
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::compare::{Divergence, Exhibit, Reason, Side};
use crate::frame::{FlowKey, FrameStore};

/// Bytes shown around the first difference: whole rows of sixteen.
const EXCERPT: usize = 64;

/// A divergence that owns what it shows.
#[derive(Debug, Clone, Serialize)]
pub struct DivergenceReport {
    /// The flow.
    pub flow: FlowKey,
    /// What was found.
    pub reason: Reason,
    /// The side that was found wanting.
    pub side: Side,
    /// TCP: bytes since the start of the stream; datagrams: bytes into the compared content.
    pub offset: u32,
    /// How long the older frame had waited.
    #[serde(rename = "waited_ms", serialize_with = "milliseconds")]
    pub waited: Duration,
    /// The primary's bytes.
    pub primary: Option<Excerpt>,
    /// The secondary's bytes.
    pub secondary: Option<Excerpt>,
}

/// Part of a frame around the first byte that differs.
#[derive(Debug, Clone, Serialize)]
pub struct Excerpt {
    /// Length of the whole frame.
    pub frame_length: usize,
    /// Offset in the frame of the byte in question.
    pub at: usize,
    /// That byte, if the frame has it.
    pub byte: Option<u8>,
    /// Offset in the frame of the first byte of `bytes`.
    pub start: usize,
    /// The bytes, in hexadecimal when serialised.
    #[serde(serialize_with = "hexadecimal")]
    pub bytes: Vec<u8>,
}

fn milliseconds<S: Serializer>(span: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(span.as_secs_f64() * 1e3)
}

fn hexadecimal<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").map_err(serde::ser::Error::custom)?;
    }
    serializer.serialize_str(&text)
}

impl Excerpt {
    fn new<S: FrameStore>(store: &S, exhibit: &Exhibit<'_, S>) -> Self {
        let frame_length = store.len(exhibit.frame);
        let start = exhibit.at.saturating_sub(EXCERPT / 2) & !15;
        let end = frame_length.min(start + EXCERPT);
        let mut bytes = Vec::with_capacity(EXCERPT);
        while start + bytes.len() < end {
            let run = store.run(exhibit.frame, start + bytes.len());
            if run.is_empty() {
                break;
            }
            let take = run.len().min(end - start - bytes.len());
            bytes.extend_from_slice(&run[..take]);
        }
        let byte = exhibit.at.checked_sub(start).and_then(|index| bytes.get(index)).copied();
        Self { frame_length, at: exhibit.at, byte, start, bytes }
    }
}

impl DivergenceReport {
    /// Copies what is to be shown out of the frames.
    #[must_use]
    pub fn new<S: FrameStore>(store: &S, divergence: &Divergence<'_, S>) -> Self {
        let excerpt = |exhibit: &Option<Exhibit<'_, S>>| {
            exhibit.as_ref().map(|exhibit| Excerpt::new(store, exhibit))
        };
        Self {
            flow: *divergence.flow,
            reason: divergence.reason,
            side: divergence.side,
            offset: divergence.offset,
            waited: divergence.waited,
            primary: excerpt(&divergence.primary),
            secondary: excerpt(&divergence.secondary),
        }
    }

    fn explanation(&self) -> String {
        let side = match self.side {
            Side::Primary => "primary",
            Side::Secondary => "secondary",
        };
        match self.reason {
            Reason::Payload => {
                let shown = |excerpt: &Option<Excerpt>| match excerpt.as_ref().and_then(|e| e.byte)
                {
                    Some(byte) => format!("0x{byte:02x}"),
                    None => "nothing".to_owned(),
                };
                format!(
                    "byte {} differs: primary {}, secondary {}",
                    self.offset,
                    shown(&self.primary),
                    shown(&self.secondary)
                )
            }
            Reason::Length => {
                let length = |excerpt: &Option<Excerpt>| {
                    excerpt.as_ref().map_or(0, |excerpt| excerpt.frame_length)
                };
                format!(
                    "lengths differ: frames of {} and {} bytes",
                    length(&self.primary),
                    length(&self.secondary)
                )
            }
            Reason::StreamEnd => {
                format!(
                    "the {side} ended its stream before byte {}, the other goes on",
                    self.offset
                )
            }
            Reason::Timeout => format!(
                "a {side} frame found no partner within {:.0} ms",
                self.waited.as_secs_f64() * 1e3
            ),
            Reason::QueueFull => format!("the {side} queue of the flow is full, a frame was lost"),
            Reason::Memory => format!("frame memory is full, a {side} frame was lost"),
            Reason::FlowTable => format!("the flow table is full, a {side} frame was lost"),
        }
    }
}

impl fmt::Display for DivergenceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.flow, self.explanation())?;
        for (name, excerpt) in [("primary", &self.primary), ("secondary", &self.secondary)] {
            if let Some(excerpt) = excerpt {
                write!(f, "\n  {name}:\n{}", hex_dump(excerpt))?;
            }
        }
        Ok(())
    }
}

/// Rows of sixteen bytes with the byte in question in brackets.
#[must_use]
pub fn hex_dump(excerpt: &Excerpt) -> String {
    let mut text = String::new();
    for (row, bytes) in excerpt.bytes.chunks(16).enumerate() {
        let offset = excerpt.start + row * 16;
        let _ = write!(text, "    {offset:04x} ");
        for column in 0..16 {
            let at = offset + column;
            let (open, close) = if at == excerpt.at { ('[', ']') } else { (' ', ' ') };
            match bytes.get(column) {
                Some(byte) => {
                    let _ = write!(text, "{open}{byte:02x}{close}");
                }
                None => text.push_str("    "),
            }
        }
        text.push_str("  ");
        text.extend(bytes.iter().map(|&byte| match byte {
            0x20..0x7f => char::from(byte),
            _ => '.',
        }));
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{HeapFrame, HeapFrames};

    #[test]
    fn an_excerpt_marks_the_byte_and_stays_inside_the_frame() {
        let bytes: Vec<u8> = (0..100).collect();
        let frame = HeapFrame::from(bytes.as_slice());
        let excerpt = Excerpt::new(&HeapFrames, &Exhibit { frame: &frame, at: 90 });
        assert_eq!(excerpt.byte, Some(90));
        assert_eq!(excerpt.start, 48);
        assert_eq!(excerpt.bytes, bytes[48..]);
        let dump = hex_dump(&excerpt);
        assert!(dump.contains("[5a]"), "{dump}");
        assert_eq!(dump.lines().count(), 4);
    }

    #[test]
    fn an_exhibit_past_the_end_has_no_byte() {
        let frame = HeapFrame::from([1u8, 2, 3].as_slice());
        let excerpt = Excerpt::new(&HeapFrames, &Exhibit { frame: &frame, at: 3 });
        assert_eq!(excerpt.byte, None);
        assert_eq!(excerpt.bytes, [1, 2, 3]);
    }
}
