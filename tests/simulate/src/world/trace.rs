//! How the trace of a run says things.

use crate::meaning::{Content, Meaning, Segment};

/// A segment for a trace.
pub(super) fn brief(segment: &Segment) -> String {
    let mut text = format!("#{} {}..{}", segment.incarnation, segment.start, segment.end);
    let flags = [(segment.syn, " SYN"), (segment.fin, " FIN"), (segment.rst, " RST")];
    flags.iter().filter(|flag| flag.0).for_each(|flag| text.push_str(flag.1));
    if let Some(ack) = segment.ack {
        text.push_str(&format!(" ack {ack}"));
    }
    if !segment.flips.is_empty() {
        text.push_str(&format!(" differs {:?}", segment.flips));
    }
    text
}

pub(super) fn shown_content(content: &Content) -> String {
    match content {
        Content::Segment(segment) => brief(segment),
        other => format!("{other:?}"),
    }
}

pub(super) fn shown_meaning(meaning: &Meaning) -> String {
    format!("{:?} of flow {} {}", meaning.side, meaning.flow, shown_content(&meaning.content))
}
