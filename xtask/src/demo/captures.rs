//! The story without root: the same traffic in capture files, and `colo-xdp replay`.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use pcap_file::pcap::{PcapPacket, PcapWriter};
use serde_json::{Value, json};

use super::screen::{Screen, excerpt};
use super::traffic::{self, Conversations};

/// Bursts in each capture.
const ROUNDS: u32 = 20;
/// Between two frames of a capture.
const GAP: Duration = Duration::from_micros(100);

/// Exit status of `replay`: the captures are equal.
const EQUAL: i32 = 0;
/// Exit status of `replay`: they are not.
const DIFFERENT: i32 = 1;

/// Tells the story on captures and returns its result.
pub(super) fn tell(screen: &Screen, binary: &Path) -> anyhow::Result<Value> {
    screen.say(
        "COLO: two replicas of one guest answer the same clients. An answer of the primary may\n\
         leave only when the secondary has given the same one. colo-xdp is the judge.\n\n\
         Not root, so no network namespaces, no XDP and no AF_XDP here: the guests' frames are in\n\
         two capture files, and the same comparator judges them.",
    );
    let directory = tempfile::tempdir()?;
    let [primary, secondary] = ["primary.pcap", "secondary.pcap"].map(|n| directory.path().join(n));

    let mut conversations = Conversations::new();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let round = conversations.round();
        ours.push(round.primary);
        theirs.push(round.secondary);
    }
    screen.heading(
        "1. Both guests say the same: TCP, UDP and ICMP over IPv4 and IPv6. The secondary cuts its\n   \
            TCP streams into other segments and sends everything in another order.",
    );
    write(&primary, &ours)?;
    write(&secondary, &theirs)?;
    let same = replay(screen, binary, &primary, &secondary, EQUAL)?;
    ensure!(same["equal"] == true, "not equal: {same}");
    let frames: usize = ours.iter().map(Vec::len).sum();
    screen.say(&format!("   equal: all {frames} frames of the primary would have left."));

    screen.heading("2. The secondary gives another answer: a web page with one different byte.");
    let story = traffic::disagreement();
    ours.push(story.primary_frames.clone());
    theirs.push(story.secondary_frames.clone());
    write(&primary, &ours)?;
    write(&secondary, &theirs)?;
    let different = replay(screen, binary, &primary, &secondary, DIFFERENT)?;
    let divergent: Vec<&Value> = different["flows"]
        .as_array()
        .context("the verdict lists flows")?
        .iter()
        .filter(|flow| flow["equal"] == false)
        .collect();
    let [divergent] = divergent[..] else { bail!("one flow was to differ: {different}") };
    let divergence = &divergent["divergence"];
    ensure!(divergence["offset"] == story.at, "another offset than {}: {divergence}", story.at);
    let count = |name: &str| {
        different["counters"][name].as_u64().with_context(|| format!("no counter {name}"))
    };
    let (released, held) = (count("released")?, count("primary_held")?);
    screen.say(&format!(
        "   DIVERGENCE at byte {} of the stream to port {}:\n     primary   {}\n     secondary {}\n   \
            {held} frames would have been held until a checkpoint.",
        story.at,
        traffic::UNLUCKY_CLIENT,
        excerpt(&story.primary, story.at),
        excerpt(&story.secondary, story.at),
    ));
    let left_out =
        ["XDP steering", "AF_XDP rings and release on a NIC", "hold and checkpoint live"];
    screen.heading(&format!("Left out without root: {}.", left_out.join(", ")));
    Ok(json!({
        "demo": "captures",
        "released": released,
        "held": held,
        "divergences": 1,
        "divergence": divergence,
        "lost": count("lost")?,
        // Replay keeps frames on the heap: there is no frame memory whose books could be wrong.
        "frames_unaccounted": 0,
        "left_out": left_out,
    }))
}

/// Writes the bursts as one capture. Both guests' captures have the same clock, burst by burst.
fn write(path: &Path, bursts: &[Vec<Vec<u8>>]) -> anyhow::Result<()> {
    let mut writer = PcapWriter::new(File::create(path)?)?;
    for (burst, frames) in bursts.iter().enumerate() {
        let mut time = Duration::from_secs(1) + Duration::from_millis(50) * u32::try_from(burst)?;
        for frame in frames {
            let length = u32::try_from(frame.len())?;
            writer.write_packet(&PcapPacket::new(time, length, frame))?;
            time += GAP;
        }
    }
    Ok(())
}

fn replay(
    screen: &Screen,
    binary: &Path,
    primary: &Path,
    secondary: &Path,
    expected: i32,
) -> anyhow::Result<Value> {
    screen.say("   $ colo-xdp replay primary.pcap secondary.pcap");
    let output = Command::new(binary)
        .args(["replay", "--json"])
        .args([primary, secondary])
        .output()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    ensure!(
        output.status.code() == Some(expected),
        "replay ended with {} instead of {expected}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).context("replay --json printed something else")
}
