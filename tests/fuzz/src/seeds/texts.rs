//! Seeds of the targets that read JSON lines.

pub(super) fn control() -> Vec<(&'static str, Vec<u8>)> {
    let line = |text: &str| [b"\0\0", text.as_bytes(), b"\n"].concat();
    let rule = |rule: &str| line(&format!(r#"{{"command":"bypass-add","rule":"{rule}"}}"#));
    vec![
        ("status", line(r#"{"command":"status"}"#)),
        ("flows", line(r#"{"command":"flows"}"#)),
        ("flows-with-limit", line(r#"{"command":"flows","limit":3}"#)),
        ("flows-with-limit-too-large", line(r#"{"command":"flows","limit":18446744073709551616}"#)),
        ("checkpoint", line(r#"{"command":"checkpoint"}"#)),
        ("failover", line(r#"{"command":"failover"}"#)),
        ("failover-to-secondary", line(r#"{"command":"failover","survivor":"secondary"}"#)),
        ("failover-to-nobody", line(r#"{"command":"failover","survivor":"tertiary"}"#)),
        ("rearm", line(r#"{"command":"rearm"}"#)),
        ("bypass-add-port", rule("proto=udp,port=53,side=destination")),
        ("bypass-add-network", rule("addr=10.0.0.0/8")),
        ("bypass-add-ipv6", rule("addr=fd00::/16,proto=icmpv6")),
        ("bypass-add-nonsense", rule("proto=tcp,proto=udp,side=left")),
        ("bypass-delete", line(r#"{"command":"bypass-delete","rule":"proto=47"}"#)),
        ("bypass-list", line(r#"{"command":"bypass-list"}"#)),
        ("log", line(r#"{"command":"log","level":"debug"}"#)),
        ("unknown-command", line(r#"{"command":"reboot"}"#)),
        ("unknown-field", line(r#"{"command":"status","verbose":true}"#)),
        ("field-twice", line(r#"{"command":"status","command":"rearm"}"#)),
        ("escaped-command", line(r#"{"command":"\u0073tatus"}"#)),
        ("not-an-object", line("[1,2,3]")),
        ("not-json", line("status")),
        ("not-utf-8", b"\0\0{\"command\":\"log\",\"level\":\"\xff\xfe\"}\n".to_vec()),
        ("deep", line(&"[".repeat(200))),
        ("blank-lines", b"\0\0\n\n\r\n".to_vec()),
        ("three-requests", line("{\"command\":\"status\"}\n{]\n{\"command\":\"rearm\"}")),
        ("half-a-line", br#"--{"command":"status"}"#.to_vec()),
        ("longest-line", [&0xffff_u16.to_le_bytes()[..], b"\n{\"command\":\"status\"}\n"].concat()),
        (
            "line-too-long",
            [&0xffff_u16.to_le_bytes()[..], b"x\n{\"command\":\"status\"}\n"].concat(),
        ),
    ]
}

const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":3,"minor":1,"major":11},"package":""},"capabilities":[]}}"#;
/// The answers to what a session asks first, by its numbers.
const NEGOTIATED: &str = r#"{"return":{},"id":1}"#;
const IN_COLO: &str = r#"{"return":{"status":"colo"},"id":2}
{"return":{"mode":"primary","reason":"none"},"id":3}"#;
const STOP: &str = r#"{"event":"STOP","timestamp":{"seconds":1,"microseconds":2}}"#;
const RESUME: &str = r#"{"event":"RESUME","timestamp":{"seconds":1,"microseconds":9}}"#;

/// What `tests/fuzz/src/qmp.rs` says of control characters.
const WANTED: &str = "\u{3}";

pub(super) fn qmp() -> Vec<(&'static str, Vec<u8>)> {
    let primary = |parts: &[&str]| [b"\0", parts.join("\n").as_bytes(), b"\n"].concat();
    let secondary = |parts: &[&str]| [b"\x01", parts.join("\n").as_bytes(), b"\n"].concat();
    let parameters = r#"{"return":{"x-checkpoint-delay":20000},"id":4}"#;
    let accepted = r#"{"return":{},"id":5}"#;
    let exit = r#"{"event":"COLO_EXIT","data":{"mode":"primary","reason":"error"}}"#;
    let refused = r#"{"error":{"class":"GenericError","desc":"no\u0007 such"},"id":4}"#;
    let unknown = r#"{"error":{"class":"CommandNotFound","desc":"?"},"id":3}"#;
    let begin = [GREETING, NEGOTIATED, IN_COLO].join("\n");
    vec![
        ("greeting", primary(&[GREETING])),
        ("negotiated", primary(&[GREETING, NEGOTIATED])),
        ("checkpoint", primary(&[&begin, WANTED, parameters, accepted, STOP, RESUME])),
        ("checkpoint-of-another-client", primary(&[&begin, STOP, RESUME, STOP, RESUME])),
        ("wanted-while-stopped", primary(&[&begin, STOP, WANTED, RESUME, parameters, accepted])),
        ("stopped-while-asking", primary(&[&begin, WANTED, STOP, parameters, RESUME])),
        ("wanted-before-the-greeting", primary(&[WANTED, &begin, parameters, accepted])),
        ("parameters-without-delay", primary(&[&begin, WANTED, r#"{"return":{},"id":4}"#])),
        ("refused", primary(&[&begin, WANTED, refused])),
        ("colo-status-unknown", primary(&[GREETING, NEGOTIATED, unknown, "\u{1}\u{2}"])),
        ("colo-exit", primary(&[&begin, exit, RESUME])),
        ("colo-exit-of-the-other-side", secondary(&[&begin, exit])),
        ("resume-before-the-first-look", primary(&[GREETING, NEGOTIATED, RESUME, IN_COLO])),
        (
            "migration-event",
            primary(&[&begin, r#"{"event":"MIGRATION","data":{"status":"failed"}}"#]),
        ),
        ("secondary", secondary(&[&begin, STOP, WANTED, RESUME])),
        ("silence", primary(&[&begin, "\u{2}", "\u{2}", &begin])),
        ("no-greeting", primary(&["\u{2}\u{2}"])),
        ("lost-and-back", primary(&[&begin, "\u{4}", &begin, "\u{4}"])),
        ("greeting-twice", primary(&[GREETING, GREETING, NEGOTIATED])),
        ("in-pieces", primary(&["{\"QMP\u{5}\":{}\u{5}}", "{\"return\":\u{5}{},\"id\":1}"])),
        ("not-json", primary(&["hello", "[]", "{", "\"\u{5}", "{}"])),
        (
            "event-without-name",
            primary(&[&begin, r#"{"event":7}"#, r#"{"event":"RESUME","data":0}"#]),
        ),
        (
            "answer-to-nothing",
            primary(&[&begin, r#"{"return":{},"id":99}"#, r#"{"return":[],"id":2}"#]),
        ),
        ("line-too-long", primary(&[&begin, &"\u{6}".repeat(17), STOP, RESUME])),
        (
            "delay-of-64-bits",
            primary(&[
                &begin,
                WANTED,
                r#"{"return":{"x-checkpoint-delay":18446744073709551615},"id":4}"#,
            ]),
        ),
    ]
}
