//! The story on real devices.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use colo_tests::capture::SILENCE;
use colo_tests::control::Status;
use colo_tests::{Launch, Packet, Plan, Role, Stage, Topology};
use serde_json::{Value, json};

use super::screen::{Screen, excerpt};
use super::traffic::{self, Conversations};

/// Between two bursts: slow enough to be watched.
const PACE: Duration = Duration::from_millis(50);
/// The guests are one process on a busy machine: frames of the secondary may be late by more
/// than the default of 2 ms without meaning anything.
const GRACE: [&str; 2] = ["--reorder-grace", "200ms"];
/// Longest time for which frames are shown waiting; the comparator gives up after three seconds.
const LONGEST_WAIT: Duration = Duration::from_millis(2000);

struct Story<'a> {
    screen: &'a Screen,
    stage: Stage,
    conversations: Conversations,
    /// Frames that reached the client, each the primary's, byte for byte.
    delivered: u64,
    kinds: [u64; 3],
}

/// Tells the story within about `length` and returns its result.
pub(super) fn tell(screen: &Screen, binary: &Path, length: Duration) -> anyhow::Result<Value> {
    let stage = open(screen, binary)?;
    let conversations = Conversations::new();
    let mut story = Story { screen, stage, conversations, delivered: 0, kinds: [0; 3] };
    story.same_output(length / 2)?;
    story.primary_ahead((length / 10).min(LONGEST_WAIT))?;
    let (held, divergence) = story.different_output(length / 5)?;
    story.checkpoint(held)?;
    thread::sleep(length / 10);
    story.close(held, &divergence)
}

fn open(screen: &Screen, binary: &Path) -> anyhow::Result<Stage> {
    let topology = Topology::new(Plan::default())?;
    let launch = Launch::on(&topology).binary(binary).arguments(&GRACE);
    screen.say(
        "COLO: two replicas of one guest answer the same clients. An answer of the primary may\n\
         leave only when the secondary has given the same one, so that the secondary can take\n\
         over at any moment and no client notices. colo-xdp is the judge between them:\n",
    );
    let name = |role| topology.device(role);
    let (primary, secondary, out) = (name(Role::Primary), name(Role::Secondary), name(Role::Out));
    screen.say(&format!(
        concat!(
            "    primary guest ---- tap  {primary} ---+\n",
            "                            {space}    +--- colo-xdp --- {out} (NIC) --- client\n",
            "  secondary guest ---- veth {secondary} ---+\n",
            "\n",
            "Real frames on real devices, in network namespaces of their own. The comparator:\n",
            "  $ {line}",
        ),
        primary = primary,
        secondary = secondary,
        out = out,
        space = " ".repeat(primary.len()),
        line = launch.command_line(),
    ));
    let comparator = launch.start(topology.host())?;
    Ok(Stage { comparator, topology })
}

impl Story<'_> {
    /// One burst from both guests; what reaches the client must be the primary's frames.
    fn exchange(&mut self) -> anyhow::Result<()> {
        let round = self.conversations.round();
        self.stage.primary(&round.primary)?;
        self.stage.secondary(&round.secondary)?;
        self.stage.client().expect_in_any_order(&round.primary)?;
        self.delivered += round.primary.len() as u64;
        for (sum, more) in self.kinds.iter_mut().zip(round.kinds) {
            *sum += more;
        }
        Ok(())
    }

    /// Bursts until `length` has passed, with a live line.
    fn exchange_for(&mut self, length: Duration) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut shown = None;
        loop {
            let burst = Instant::now();
            self.exchange()?;
            let over = start.elapsed() >= length;
            let due = shown.is_none_or(|at: Instant| at.elapsed() >= self.screen.pace());
            if due || over {
                shown = Some(Instant::now());
                self.show(&self.stage.comparator.status()?);
            }
            if over {
                return Ok(());
            }
            thread::sleep(PACE.saturating_sub(burst.elapsed()));
        }
    }

    fn show(&self, status: &Status) {
        let [tcp, udp, icmp] = self.kinds;
        self.screen.live(&format!(
            "   primary sent {:>6}   secondary sent {:>6}   released {:>6} (TCP {tcp}, UDP {udp}, \
             ICMP {icmp})   held {:>3}",
            status.count("primary_received"),
            status.count("secondary_received"),
            status.count("released"),
            status.count("primary_held"),
        ));
    }

    fn same_output(&mut self, length: Duration) -> anyhow::Result<()> {
        self.screen.heading(
            "1. Both guests say the same, over IPv4 and IPv6. The secondary cuts its TCP streams\n   \
                into other segments and sends everything in another order: that is no difference.",
        );
        self.exchange_for(length)?;
        self.screen.say(&format!(
            "   The client received {} frames, each byte for byte the primary's.",
            self.delivered
        ));
        Ok(())
    }

    fn primary_ahead(&mut self, length: Duration) -> anyhow::Result<()> {
        self.screen.heading("2. The primary runs ahead; the secondary has not answered yet.");
        let frames: Vec<_> = (0..8_u16)
            .map(|number| Packet::v6().udp(53, 50_000 + number, b"an answer that waits"))
            .collect();
        self.stage.primary(&frames)?;
        self.stage.expect_held(8)?;
        self.screen.say("   8 frames are held. The client has seen none of them ...");
        thread::sleep(length);
        self.stage.secondary(&frames)?;
        self.stage.client().expect_in_any_order(&frames)?;
        self.delivered += 8;
        self.screen.say("   ... the secondary catches up, and all 8 leave at once.");
        Ok(())
    }

    /// Returns how many frames the divergence holds back, and its event.
    fn different_output(&mut self, length: Duration) -> anyhow::Result<(u64, Value)> {
        self.screen.heading(
            "3. Now the secondary gives another answer: a web page with one different byte.",
        );
        let story = traffic::disagreement();
        self.stage.primary(&story.primary_frames)?;
        self.stage.secondary(&story.secondary_frames)?;
        let event = self.stage.comparator.event("divergence")?;
        self.stage.comparator.event("checkpoint-requested")?;
        ensure!(event["offset"] == story.at, "another offset than {}: {event}", story.at);
        for (side, bytes) in [("primary", &story.primary), ("secondary", &story.secondary)] {
            ensure!(event[side]["byte"] == bytes[story.at], "another {side} byte: {event}");
        }
        self.stage.client().expect(&story.primary_frames[..1])?;
        self.delivered += 1;
        self.stage.client().expect_nothing(SILENCE)?;
        self.screen.say(&format!(
            "   DIVERGENCE ({}) in TCP 192.0.2.1:80 -> 192.0.2.2:{}, byte {} of the stream:\n     \
                primary   {}\n     secondary {}",
            event["reason"].as_str().unwrap_or("?"),
            traffic::UNLUCKY_CLIENT,
            story.at,
            excerpt(&story.primary, story.at),
            excerpt(&story.secondary, story.at),
        ));
        let held = story.primary_frames.len() as u64 - 1;
        self.screen.say(&format!(
            "   What was equal has left; {held} frames of the primary are held, and the hypervisor \
             is asked\n   for a checkpoint. Meanwhile all other conversations go on:"
        ));
        self.exchange_for(length)?;
        Ok((held, event))
    }

    fn checkpoint(&mut self, held: u64) -> anyhow::Result<()> {
        self.screen.heading(
            "4. The hypervisor makes the secondary equal to the primary and says so:\n     \
             $ colo-xdp ctl checkpoint",
        );
        let frames = traffic::disagreement().primary_frames;
        let done = self.stage.checkpoint()?;
        self.stage.client().expect(&frames[1..])?;
        self.delivered += held;
        let released = done["released"].as_u64().context("the event counts what it released")?;
        ensure!(released == held, "{held} frames were held, {released} released");
        self.screen.say(&format!(
            "   {released} held frames have left, in order: the client reads \"Your balance: 1000 \
             EUR\" and\n   never knew."
        ));
        self.exchange()
    }

    fn close(self, held: u64, divergence: &Value) -> anyhow::Result<Value> {
        let delivered = self.delivered;
        let outcome = self.stage.finish()?;
        let summary = &outcome.summary;
        let released = summary.count("released");
        ensure!(released == delivered, "{released} frames released, {delivered} at the client");
        let divergences = summary.count("divergences");
        ensure!(divergences == 1, "one divergence was made, {divergences} were found");
        self.screen.heading(&format!(
            "Stopped in {} ms: {released} released, {delivered} at the client, {divergences} \
             divergence, {} lost, {} unaccounted for.",
            outcome.took.as_millis(),
            summary.count("lost"),
            summary.count("frames_unaccounted"),
        ));
        Ok(json!({
            "demo": "live",
            "released": released,
            "delivered": delivered,
            "held": held,
            "held_at_end": summary.count("held"),
            "divergences": divergences,
            "divergence": divergence,
            "lost": summary.count("lost"),
            "frames_unaccounted": summary.count("frames_unaccounted"),
        }))
    }
}
