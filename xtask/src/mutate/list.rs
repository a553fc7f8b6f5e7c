//! The mutations.

/// One small wrong change.
pub(crate) struct Mutation {
    /// What is wrong then.
    pub(crate) name: &'static str,
    /// Where, from the root of the workspace.
    pub(crate) file: &'static str,
    /// A text that is there once.
    pub(crate) from: &'static str,
    /// What stands there instead.
    pub(crate) to: &'static str,
}

const fn change(
    name: &'static str,
    file: &'static str,
    from: &'static str,
    to: &'static str,
) -> Mutation {
    Mutation { name, file, from, to }
}

/// All of them.
pub(crate) const MUTATIONS: &[Mutation] = &[
    change(
        "no sequence wrap",
        "compare-user/src/compare/sequence.rs",
        "(self.0.wrapping_sub(other.0) as i32) < 0",
        "self.0 < other.0",
    ),
    change(
        "no acknowledgement gate",
        "compare-user/src/compare/stream.rs",
        "&& segment.acknowledgement.at_or_before(self.secondary_acknowledged)",
        "&& segment.acknowledgement == segment.acknowledgement",
    ),
    change(
        "bare acknowledgements are never held",
        "compare-user/src/compare/config.rs",
        "matches!(self, Self::All | Self::Slower)",
        "matches!(self, Self::Off)",
    ),
    change(
        "the last byte of the overlap is not compared",
        "compare-user/src/compare/stream.rs",
        "(self.slab.frame(theirs), their_place),\n            until.distance_from(mark) as usize,",
        "(self.slab.frame(theirs), their_place),\n            (until.distance_from(mark) as usize).saturating_sub(1),",
    ),
    change(
        "an arriving segment's last byte is not compared",
        "compare-user/src/compare/stream.rs",
        "(self.slab.frame(waiting), place),\n                until.distance_from(mark) as usize,",
        "(self.slab.frame(waiting), place),\n                (until.distance_from(mark) as usize).saturating_sub(1),",
    ),
    change(
        "streams are released on length only",
        "compare-user/src/compare/content.rs",
        "if a_run != b_run {",
        "if a_run.len() != b_run.len() {",
    ),
    change(
        "datagrams are released on length only",
        "compare-user/src/compare/content.rs",
        "    if length != b_span.len() || a_span.fragment != b_span.fragment {\n        return false;\n    }\n",
        "    if length != b_span.len() || a_span.fragment != b_span.fragment {\n        return false;\n    }\n    if length < usize::MAX {\n        return true;\n    }\n",
    ),
    change(
        "the place of a fragment is not compared",
        "compare-user/src/compare/content.rs",
        "if length != b_span.len() || a_span.fragment != b_span.fragment {",
        "if length != b_span.len() {",
    ),
    change(
        "checksums are compared",
        "compare-user/src/compare/content.rs",
        "(before, before + 2)",
        "(before, before)",
    ),
    change(
        "a flush drops the primary's frames",
        "compare-user/src/compare/flush.rs",
        "self.release_held(record, Release::Flushed, turn);",
        "self.discard_held(record, Discard::Flushed, turn);",
    ),
    change(
        "a flush does not move the mark",
        "compare-user/src/compare/flush.rs",
        "stream.mark = stream.mark.later(segment.end);",
        "stream.mark = stream.mark.earlier(segment.end);",
    ),
    change(
        "late copies are not recognised",
        "compare-user/src/compare/flush.rs",
        "self.slab.leave_ghost(flow, hash, turn.now());",
        "self.slab.leave_ghost(flow, !hash, turn.now());",
    ),
    change(
        "a checkpoint leaves the gate as it was",
        "compare-user/src/compare/flush.rs",
        "                if stream.known.primary_acknowledged {",
        "                if stream.known.primary_acknowledged && !stream.known.primary_acknowledged {",
    ),
    change(
        "a checkpoint leaves its request outstanding",
        "compare-user/src/compare/flush.rs",
        "        self.requested = None;\n",
        "",
    ),
    change(
        "a checkpoint forgets what left beyond a gap",
        "compare-user/src/compare/flush.rs",
        "stream.mark = stream.mark.later(stream.island.1);",
        "stream.mark = stream.mark.earlier(stream.island.1);",
    ),
    change(
        "what lies beyond a gap leaves at once",
        "compare-user/src/compare/island.rs",
        "turn.now().since(arrived) >= self.config.reorder_grace",
        "turn.now().since(arrived) <= self.config.reorder_grace * 1000",
    ),
    change(
        "what lies beyond a gap is not compared",
        "compare-user/src/compare/island.rs",
        "if found.is_some() {",
        "if found.is_some_and(|at| at > 1 << 20) {",
    ),
    change(
        "what lies beyond a gap leaves in any place",
        "compare-user/src/compare/island.rs",
        "island.is_none_or(|(_, end)| end == segment.start)",
        "island.is_none_or(|(_, end)| end.at_or_before(segment.start))",
    ),
    change(
        "a FIN leaves although the secondary goes on",
        "compare-user/src/compare/stream.rs",
        "let ends = segment.has(TcpFields::FIN | TcpFields::RST);\n        if",
        "let ends = segment.has(TcpFields::RST);\n        if",
    ),
    change(
        "a reset does not wait for what it follows",
        "compare-user/src/compare/stream.rs",
        "segment.has(TcpFields::RST) && nothing_before {",
        "segment.has(TcpFields::RST) {",
    ),
    change(
        "the secondary's end of stream is not looked at",
        "compare-user/src/compare/stream.rs",
        "if stream.known.secondary_end && stream.secondary_end.at_or_before(mark) =>",
        "if stream.known.secondary_end && stream.secondary_end.before(stream.origin) =>",
    ),
    change(
        "what the secondary says again leaves at once",
        "compare-user/src/compare/stream.rs",
        "let again = self.known.repeated && self.repeated == start;",
        "let again = self.known.mark && !segment.is_empty();",
    ),
    change(
        "the secondary acknowledges what the primary has not",
        "compare-user/src/compare/stream.rs",
        "segment.has(TcpFields::ACK) && both_have && (is_new || is_repeated)",
        "segment.has(TcpFields::ACK) && (is_new || is_repeated && both_have)",
    ),
    change(
        "the gate is not opened before a repetition",
        "compare-user/src/compare/stream.rs",
        "            // What waits for this acknowledgement goes first.\n            self.advance(flow, turn);\n",
        "",
    ),
    change(
        "a SYN leaves before the secondary's",
        "compare-user/src/compare/stream.rs",
        "self.known.primary_syn && !self.known.secondary_syn && !self.known.syn_shared",
        "self.known.primary_syn && self.known.secondary_syn && !self.known.syn_shared",
    ),
    change(
        "a new connection keeps the old one's mark",
        "compare-user/src/compare/handshake.rs",
        "let repeated = stream.known.primary_syn && stream.origin == segment.start;",
        "let repeated = stream.known.primary_syn;",
    ),
    change(
        "a flow is reported again and again",
        "compare-user/src/compare/mod.rs",
        "if std::mem::replace(&mut entry.reported, true) {",
        "if std::mem::replace(&mut entry.reported, false) {",
    ),
    change(
        "each divergence asks for a checkpoint",
        "compare-user/src/compare/mod.rs",
        "        if self.requested.is_none() {",
        "        if self.requested.is_none_or(|asked| asked <= turn.now()) {",
    ),
    change(
        "a request is not repeated",
        "compare-user/src/compare/deadline.rs",
        "turn.now().since(asked) >= self.config.request_interval",
        "turn.now().since(asked) >= self.config.request_interval * 1000",
    ),
    change(
        "one frame too many is held of a flow",
        "compare-user/src/compare/mod.rs",
        "held(side) >= self.config.queue_limit",
        "held(side) > self.config.queue_limit",
    ),
    change(
        "timeouts never pass",
        "compare-user/src/compare/deadline.rs",
        "since(held.arrived) < self.config.compare_timeout",
        "since(held.arrived) < self.config.compare_timeout * 1000",
    ),
    change(
        "timeouts pass early",
        "compare-user/src/compare/deadline.rs",
        "since(held.arrived) < self.config.compare_timeout",
        "since(held.arrived) < self.config.compare_timeout / 2",
    ),
    change(
        "the reorder grace is ignored",
        "compare-user/src/compare/datagram.rs",
        "if !grace.is_zero() && waited <= grace {",
        "if !grace.is_zero() && waited < grace / 1000 {",
    ),
    change(
        "the reorder grace never ends",
        "compare-user/src/compare/deadline.rs",
        "if turn.now().since(since) <= self.config.reorder_grace {",
        "if turn.now().since(since) <= self.config.reorder_grace * 1000 {",
    ),
    change(
        "VLAN tags are ignored",
        "compare-user/src/frame/parse.rs",
        "*slot = tag.vlan_identifier().value();",
        "*slot = tag.vlan_identifier().value() & 0;",
    ),
    change(
        "fragments are in the flow of whole datagrams",
        "compare-user/src/frame/parse.rs",
        "    headers.key.fragment = 1;\n",
        "    headers.key.fragment = 0;\n",
    ),
    change(
        "TCP's destination port is ignored",
        "compare-user/src/frame/parse.rs",
        "headers.key.destination_port = tcp.destination_port();",
        "headers.key.destination_port = tcp.destination_port() & 1;",
    ),
    change(
        "padding is compared",
        "compare-user/src/frame/parse.rs",
        "    headers.key.family = 4;\n    headers.end = end as u32;",
        "    headers.key.family = 4;\n    headers.end = len as u32;",
    ),
    change(
        "one datagram of the secondary's serves several",
        "compare-user/src/compare/datagram.rs",
        "                self.remove_secondary_datagram(flow, partner);\n                self.discard_held(partner, Discard::Compared, turn);\n                let amendment",
        "                let _ = partner;\n                let amendment",
    ),
    change(
        "a flow that holds frames is forgotten",
        "compare-user/src/compare/flow.rs",
        "if !self.get(candidate).holds_any() {",
        "if self.get(candidate).used <= now.coarse() {",
    ),
    change(
        "after failover the primary's frames leave, whoever is lost",
        "compare-user/src/compare/mod.rs",
        "let leaves = side == self.standalone.unwrap_or(Side::Primary);",
        "let leaves = side == Side::Primary;",
    ),
    change(
        "partial checksums are not marked",
        "compare-user/src/compare/verdict.rs",
        "ChecksumState::Partial => Self::Partial,",
        "ChecksumState::Partial => Self::AsFound,",
    ),
    change(
        "a connection that began after the reset is dropped",
        "compare-user/src/compare/flush.rs",
        "at.moment().wrapping_sub(stream.begun) as i32 >= 0",
        "at.moment().wrapping_sub(stream.begun) as i32 >= i32::MIN",
    ),
    change(
        "what the secondary says again leaves with its payload",
        "compare-user/src/compare/stream.rs",
        "let without_payload = !is_whole;",
        "let without_payload = is_whole && !is_whole;",
    ),
    change(
        "what the secondary says again need not be what the primary has waiting",
        "compare-user/src/compare/stream.rs",
        "covers\n            && !theirs.has(TcpFields::FIN)\n            && first_difference(",
        "covers\n            && !theirs.has(TcpFields::FIN)\n            || first_difference(",
    ),
    change(
        "a stream begins where it was first seen",
        "compare-user/src/compare/stream.rs",
        "!self.known.primary_syn && segment.start.before(self.origin)",
        "self.known.primary_syn && !self.known.primary_syn && segment.start.before(self.origin)",
    ),
    change(
        "what was compared before a stream was found to begin earlier is forgotten",
        "compare-user/src/compare/stream.rs",
        "if self.origin != self.mark {\n            self.island",
        "if self.origin != self.mark && self.known.primary_syn {\n            self.island",
    ),
    change(
        "what the secondary has said of a waiting segment leaves at once",
        "compare-user/src/compare/partly_said.rs",
        "since(joined) <= self.config.reorder_grace {",
        "since(joined) < self.config.reorder_grace / 64 {",
    ),
    change(
        "what the secondary has said of a waiting segment leaves with what has left before",
        "compare-user/src/compare/partly_said.rs",
        "let without_first = from.distance_from(theirs.start);",
        "let without_first = from.distance_from(from);",
    ),
    change(
        "a segment leaves with the beginning that has left",
        "compare-user/src/compare/partly_said.rs",
        "ours.left = theirs.end.distance_from(ours.segment.start);",
        "ours.left = theirs.end.distance_from(theirs.end);",
    ),
    change(
        "what the secondary has said of a waiting segment acknowledges what it likes",
        "compare-user/src/compare/partly_said.rs",
        "&& theirs.acknowledgement.at_or_before(stream.primary_acknowledged);",
        "|| theirs.acknowledgement.at_or_before(stream.primary_acknowledged);",
    ),
];
