use proptest::prelude::*;

use super::*;

const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":3,"minor":1,"major":11},
    "package":""},"capabilities":["oob"]}}"#;

/// A session with a clock that the test moves.
struct Scene {
    session: Session,
    now: Instant,
}

impl Scene {
    fn connected() -> Self {
        Self::connected_to(QemuRole::Primary)
    }

    fn connected_to(role: QemuRole) -> Self {
        let now = Instant::now();
        let mut session = Session::new("unix:/q".into(), role, now);
        session.connected(now);
        Self { session, now }
    }

    /// Negotiated; the first look at the migration is answered with `status`.
    fn with_migration(status: &str) -> Self {
        Self::as_seen(QemuRole::Primary, status)
    }

    /// As [`Scene::with_migration`], on the secondary's side.
    fn secondary(status: &str) -> Self {
        Self::as_seen(QemuRole::Secondary, status)
    }

    fn as_seen(role: QemuRole, status: &str) -> Self {
        let mut scene = Self::connected_to(role);
        scene.hear(GREETING);
        scene.answer("qmp_capabilities", json!({}));
        let asked = scene.sent();
        scene.session.effects.retain(|effect| *effect != Effect::Ready);
        scene.reply(&asked, "query-migrate", json!({ "status": status }));
        scene.reply(&asked, "query-colo-status", json!({ "mode": role.mode() }));
        scene
    }

    fn hear(&mut self, line: &str) {
        self.session.line(line.as_bytes(), self.now);
    }

    fn event(&mut self, name: &str) {
        self.hear(&json!({ "event": name, "timestamp": {"seconds": 1} }).to_string());
    }

    /// What was sent since the last look; other effects stay.
    fn sent(&mut self) -> Vec<Value> {
        let mut sent = Vec::new();
        self.session.effects.retain(|effect| match effect {
            Effect::Send(line) => {
                sent.push(serde_json::from_str(line).expect("JSON is sent"));
                false
            }
            _ => true,
        });
        sent
    }

    /// What whoever acts on it was told since the last look; what was sent stays.
    fn told(&mut self) -> Vec<Effect> {
        let sends = |effect: &Effect| matches!(effect, Effect::Send(_));
        let (sent, told) = self.session.effects().into_iter().partition(sends);
        self.session.effects = sent;
        told
    }

    fn reply(&mut self, asked: &[Value], command: &str, answer: Value) {
        let question = asked.iter().find(|question| question["execute"] == command);
        let id = &question.unwrap_or_else(|| panic!("{command} was not asked: {asked:?}"))["id"];
        self.hear(&json!({ "return": answer, "id": id }).to_string());
    }

    /// Answers the command that must have been sent last.
    fn answer(&mut self, command: &str, answer: Value) -> Value {
        let asked = self.sent();
        self.reply(&asked, command, answer);
        asked.last().cloned().unwrap_or_default()
    }

    /// Plays QEMU through a request up to its acceptance.
    fn accept_request(&mut self, delay: u64) {
        self.answer("query-migrate-parameters", json!({ "x-checkpoint-delay": delay }));
        let set = self.answer("migrate-set-parameters", json!({}));
        assert_eq!(set["arguments"], json!({ "x-checkpoint-delay": delay }));
    }

    /// As [`Scene::answer`], among other questions.
    fn answer_any(&mut self, command: &str, answer: Value) {
        let asked = self.sent();
        self.reply(&asked, command, answer);
        for question in asked.iter().filter(|question| question["execute"] != command) {
            let id = &question["id"];
            self.hear(&json!({ "return": { "mode": "none" }, "id": id }).to_string());
        }
    }

    fn pass(&mut self, span: Duration) -> Result<(), String> {
        self.now += span;
        self.session.tick(self.now)
    }
}

#[test]
fn capabilities_are_negotiated_and_the_state_is_asked_for() {
    let mut scene = Scene::connected();
    assert_eq!(scene.sent(), [] as [Value; 0], "the greeting comes first");
    scene.hear(GREETING);
    scene.answer("qmp_capabilities", json!({}));
    assert_eq!(scene.sent().len(), 2);
    assert_eq!(scene.told(), [Effect::Ready]);
    assert_eq!(scene.session.status.version.as_deref(), Some("11.1.3"));
    assert!(scene.session.status.connected);
}

#[test]
fn a_request_sets_the_checkpoint_delay_to_the_value_it_has_and_resume_ends_it() {
    let mut scene = Scene::with_migration("colo");
    scene.session.request(scene.now);
    scene.accept_request(20_000);
    assert_eq!(scene.session.status.requests, 1);
    scene.event("STOP");
    assert_eq!(scene.told(), []);
    scene.event("RESUME");
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
    assert_eq!(scene.sent(), [] as [Value; 0], "one request, one checkpoint");
}

#[test]
fn a_checkpoint_that_nobody_asked_for_is_done_too() {
    let mut scene = Scene::with_migration("colo");
    scene.event("STOP");
    scene.event("RESUME");
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
}

#[test]
fn a_request_while_the_guest_is_stopped_is_made_after_resume() {
    let mut scene = Scene::with_migration("colo");
    scene.event("STOP");
    scene.session.request(scene.now);
    assert_eq!(scene.sent(), [] as [Value; 0], "QEMU would swallow it");
    scene.event("RESUME");
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
    scene.accept_request(9);
}

#[test]
fn a_stop_between_the_two_halves_of_a_request_puts_it_off() {
    let mut scene = Scene::with_migration("colo");
    scene.session.request(scene.now);
    scene.event("STOP");
    scene.answer("query-migrate-parameters", json!({ "x-checkpoint-delay": 7 }));
    assert_eq!(scene.sent(), [] as [Value; 0]);
    scene.event("RESUME");
    scene.accept_request(7);
}

#[test]
fn a_divergence_after_the_checkpoint_asks_again() {
    let mut scene = Scene::with_migration("colo");
    for _ in 0..3 {
        scene.session.request(scene.now);
        scene.accept_request(100);
        scene.event("STOP");
        scene.event("RESUME");
        assert_eq!(scene.told(), [Effect::CheckpointDone]);
    }
}

#[test]
fn requests_while_one_is_being_made_are_that_one() {
    let mut scene = Scene::with_migration("colo");
    for _ in 0..5 {
        scene.session.request(scene.now);
    }
    scene.accept_request(1);
    assert_eq!(scene.sent(), [] as [Value; 0]);
    // Repeated later, it is made again: the first may have been swallowed.
    scene.session.request(scene.now);
    scene.accept_request(1);
}

#[test]
fn a_request_before_negotiation_is_made_after_it_and_survives_a_reconnection() {
    let mut scene = Scene::connected();
    scene.session.request(scene.now);
    assert_eq!(scene.sent(), [] as [Value; 0]);
    scene.session.disconnected("gone");
    scene.session.connected(scene.now);
    scene.hear(GREETING);
    scene.answer("qmp_capabilities", json!({}));
    assert!(scene.sent().iter().any(|q| q["execute"] == "query-migrate-parameters"));
}

#[test]
fn a_resume_outside_colo_is_no_checkpoint() {
    let mut scene = Scene::with_migration("active");
    scene.event("RESUME");
    scene.answer("query-migrate", json!({ "status": "active" }));
    assert_eq!(scene.told(), []);
}

#[test]
fn a_resume_before_colo_was_noticed_is_a_checkpoint_once_it_is() {
    let mut scene = Scene::with_migration("active");
    scene.event("STOP");
    scene.event("RESUME");
    assert_eq!(scene.told(), []);
    scene.answer("query-migrate", json!({ "status": "colo" }));
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
}

#[test]
fn colo_exit_ends_colo_once_and_a_later_resume_is_no_checkpoint() {
    let mut scene = Scene::with_migration("colo");
    scene.hear(r#"{"event":"COLO_EXIT","data":{"mode":"primary","reason":"error"}}"#);
    assert_eq!(scene.told(), [Effect::ColoEnded("COLO_EXIT, reason error".into())]);
    // Until failover is ordered, the migration goes on calling itself colo.
    scene.pass(LOOK).expect("nothing is overdue");
    let asked = scene.sent();
    scene.reply(&asked, "query-migrate", json!({ "status": "colo" }));
    scene.event("RESUME");
    assert_eq!(scene.told(), []);
    scene.pass(LOOK).expect("nothing is overdue");
    scene.answer_any("query-migrate", json!({ "status": "completed" }));
    assert_eq!(scene.told(), [], "it has been said");
    // A new COLO is one.
    scene.pass(LOOK).expect("nothing is overdue");
    scene.answer_any("query-migrate", json!({ "status": "colo" }));
    scene.event("RESUME");
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
}

#[test]
fn the_exit_of_a_secondary_is_not_acted_on() {
    let mut scene = Scene::with_migration("completed");
    scene.hear(r#"{"event":"COLO_EXIT","data":{"mode":"secondary","reason":"request"}}"#);
    assert_eq!(scene.told(), []);
}

#[test]
fn a_secondary_s_resume_in_colo_is_a_checkpoint() {
    let mut scene = Scene::secondary("colo");
    assert_eq!(scene.session.status.colo_mode.as_deref(), Some("secondary"));
    for _ in 0..2 {
        scene.event("STOP");
        assert_eq!(scene.told(), []);
        scene.event("RESUME");
        assert_eq!(scene.told(), [Effect::CheckpointDone]);
    }
    assert_eq!(scene.session.status.checkpoints, 2);
}

#[test]
fn a_secondary_that_is_still_being_filled_resumes_without_a_checkpoint() {
    let mut scene = Scene::secondary("active");
    scene.event("RESUME");
    scene.answer("query-migrate", json!({ "status": "active" }));
    assert_eq!(scene.told(), []);
    // Unless it turns out to be in COLO already.
    scene.event("RESUME");
    scene.answer("query-migrate", json!({ "status": "colo" }));
    assert_eq!(scene.told(), [Effect::CheckpointDone]);
}

#[test]
fn a_secondary_is_never_asked_for_a_checkpoint() {
    let mut scene = Scene::secondary("colo");
    scene.session.request(scene.now);
    scene.event("STOP");
    scene.session.request(scene.now);
    scene.event("RESUME");
    assert_eq!(scene.sent(), [] as [Value; 0]);
    scene.session.disconnected("gone");
    scene.session.connected(scene.now);
    scene.hear(GREETING);
    scene.answer("qmp_capabilities", json!({}));
    let asked = scene.sent();
    assert!(asked.iter().all(|q| q["execute"].as_str().expect("a name").starts_with("query-")));
}

#[test]
fn the_exit_of_a_secondary_that_takes_over_ends_colo_and_its_later_resume_is_no_checkpoint() {
    let mut scene = Scene::secondary("colo");
    scene.event("STOP");
    scene.hear(r#"{"event":"COLO_EXIT","data":{"mode":"secondary","reason":"request"}}"#);
    assert_eq!(scene.told(), [Effect::ColoEnded("COLO_EXIT, reason request".into())]);
    // It goes on with the state that it has: its numbers are not the primary's.
    scene.event("RESUME");
    assert_eq!(scene.told(), []);
}

#[test]
fn the_exit_of_a_primary_is_not_acted_on_where_a_secondary_is_expected() {
    let mut scene = Scene::secondary("colo");
    scene.hear(r#"{"event":"COLO_EXIT","data":{"mode":"primary","reason":"error"}}"#);
    assert_eq!(scene.told(), []);
}

#[test]
fn a_lost_secondary_ends_nothing() {
    let mut scene = Scene::secondary("colo");
    scene.session.disconnected("it closed the connection");
    assert_eq!(scene.told(), []);
    let status = &scene.session.status;
    assert_eq!((status.connected, status.in_colo, status.lost), (false, false, 1));
}

#[test]
fn a_migration_that_is_colo_no_longer_ends_it_without_the_event() {
    let mut scene = Scene::with_migration("colo");
    scene.pass(LOOK).expect("nothing is overdue");
    scene.answer_any("query-migrate", json!({ "status": "failed" }));
    assert_eq!(scene.told(), [Effect::ColoEnded("the migration is failed".into())]);
}

#[test]
fn a_lost_connection_ends_colo_only_if_it_was_on() {
    let mut scene = Scene::with_migration("colo");
    scene.session.disconnected("it closed the connection");
    let cause = "the QMP connection is lost: it closed the connection";
    assert_eq!(scene.told(), [Effect::ColoEnded(cause.into())]);
    let mut scene = Scene::with_migration("active");
    scene.session.disconnected("it closed the connection");
    assert_eq!(scene.told(), []);
}

#[test]
fn replies_are_matched_by_id_in_any_order_among_events_of_others() {
    let mut scene = Scene::with_migration("colo");
    scene.pass(LOOK).expect("nothing is overdue");
    scene.session.request(scene.now);
    let asked = scene.sent();
    scene.event("BLOCK_JOB_COMPLETED");
    scene.reply(&asked, "query-migrate-parameters", json!({ "x-checkpoint-delay": 5 }));
    scene.event("JOB_STATUS_CHANGE");
    scene.reply(&asked, "query-colo-status", json!({ "mode": "primary" }));
    scene.reply(&asked, "query-migrate", json!({ "status": "colo" }));
    scene.answer("migrate-set-parameters", json!({}));
    let status = &scene.session.status;
    assert_eq!((status.requests, status.unintelligible, status.refused), (1, 0, 0));
    assert_eq!(status.colo_mode.as_deref(), Some("primary"));
}

#[test]
fn a_qemu_without_colo_status_is_asked_for_it_once() {
    let mut scene = Scene::connected();
    scene.hear(GREETING);
    scene.answer("qmp_capabilities", json!({}));
    let asked = scene.sent();
    let id =
        asked.iter().find(|q| q["execute"] == "query-colo-status").expect("asked")["id"].clone();
    let error = json!({ "class": "CommandNotFound", "desc": "not found" });
    scene.hear(&json!({ "error": error, "id": id }).to_string());
    scene.pass(LOOK).expect("nothing is overdue");
    assert!(scene.sent().iter().all(|q| q["execute"] != "query-colo-status"));
    assert_eq!(scene.session.status.refused, 0);
}

#[test]
fn a_refused_request_is_counted_with_its_reason() {
    let mut scene = Scene::with_migration("colo");
    scene.session.request(scene.now);
    let id = scene.sent()[0]["id"].clone();
    let error = json!({ "class": "GenericError", "desc": "no\u{1b}[31m" });
    scene.hear(&json!({ "error": error, "id": id }).to_string());
    assert_eq!(scene.session.status.refused, 1);
    let last = scene.session.status.last_error.as_deref();
    assert_eq!(last, Some("query-migrate-parameters was refused: no.[31m"));
    // The next one is made.
    scene.session.request(scene.now);
    assert_eq!(scene.sent().len(), 1);
}

#[test]
fn silence_is_noticed_but_not_while_the_guest_is_stopped() {
    let mut scene = Scene::connected();
    assert!(scene.pass(PATIENCE).expect_err("no greeting").contains("greeting"));

    let mut scene = Scene::with_migration("colo");
    scene.session.request(scene.now);
    assert!(scene.pass(PATIENCE).expect_err("no answer").contains("query-migrate-parameters"));

    let mut scene = Scene::with_migration("colo");
    scene.session.request(scene.now);
    scene.event("STOP");
    scene.pass(PATIENCE).expect("a long checkpoint");
}

#[test]
fn lies_are_counted_and_do_no_harm() {
    let lies = [
        "",
        "\0\u{7f}",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"event":7}"#,
        r#"{"return":{}}"#,
        r#"{"return":{},"id":999}"#,
        r#"{"return":{},"id":"1"}"#,
        r#"{"QMP":{}}"#,
    ];
    let mut scene = Scene::with_migration("colo");
    for lie in lies {
        scene.hear(lie);
    }
    assert_eq!(scene.session.status.unintelligible, lies.len() as u64);
    assert_eq!(scene.session.effects(), []);
    scene.session.request(scene.now);
    for wrong in [json!(null), json!([]), json!({}), json!({ "x-checkpoint-delay": "soon" })] {
        scene.answer("query-migrate-parameters", wrong);
        assert_eq!(scene.session.status.requests, 0);
        scene.session.request(scene.now);
    }
    scene.accept_request(3);
    assert_eq!(scene.session.status.requests, 1);
}

/// Lines of a peer that knows QMP and does not keep to it.
fn line() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        r#""STOP""#,
        r#""RESUME""#,
        r#""COLO_EXIT""#,
        r#""MIGRATION""#,
        r#""colo""#,
        "null",
        "7",
        "-1",
        "{}",
        "[]",
        r#"{"status":"colo"}"#,
        r#"{"status":"none"}"#,
        r#"{"mode":"primary"}"#,
        r#"{"x-checkpoint-delay":5}"#,
        r#"{"x-checkpoint-delay":-5}"#,
        r#"{"class":3}"#,
    ]);
    let key = prop::sample::select(vec!["QMP", "event", "return", "error", "data", "id", "x"]);
    let field =
        (key, prop_oneof![word.prop_map(str::to_owned), (0_u8..9).prop_map(|n| n.to_string())]);
    let object = prop::collection::vec(field, 0..4).prop_map(|fields| {
        let fields: Vec<_> = fields.iter().map(|(k, v)| format!(r#""{k}":{v}"#)).collect();
        format!("{{{}}}", fields.join(","))
    });
    prop_oneof![9 => object, 1 => any::<String>()]
}

proptest! {
    #[test]
    fn no_peer_makes_the_session_panic_or_ask_without_bound(
        lines in prop::collection::vec((line(), any::<bool>(), 0_u64..2_000), 0..200),
        greeted in any::<bool>(),
    ) {
        let mut scene = if greeted { Scene::with_migration("colo") } else { Scene::connected() };
        for (line, request, pause) in lines {
            scene.hear(&line);
            if request {
                scene.session.request(scene.now);
            }
            if scene.pass(Duration::from_millis(pause)).is_err() {
                scene.session.disconnected("silent");
                scene.session.connected(scene.now);
            }
            // One question of each kind at a time.
            prop_assert!(scene.session.questions.len() <= 5);
        }
    }
}
