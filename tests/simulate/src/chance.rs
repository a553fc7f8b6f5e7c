//! Random numbers that stay the same when something else is taken away.
//!
//! Everything in a simulation that decides at random (a flow's guest, one direction of its path, the
//! commands) has a generator of its own, made from the seed and its own name. A scenario with a flow or a
//! fault less is then the same run without it, which is what makes shrinking work.

use fastrand::Rng;

/// Who decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Part {
    /// What a flow is: addresses, script, habits.
    Flow = 1,
    /// Segmentation and frames of the primary guest.
    Primary,
    /// The same of the secondary guest.
    Secondary,
    /// The client.
    Client,
    /// The path of the primary's frames to the comparator.
    FromPrimary,
    /// The path of the secondary's frames to the comparator.
    FromSecondary,
    /// The path of the client's packets to both guests.
    Inbound,
    /// What only the primary's copy meets.
    ToPrimary,
    /// What only the secondary's copy meets.
    ToSecondary,
    /// The path of released frames to the client.
    Outbound,
    /// Who takes checkpoints.
    Hypervisor,
    /// When the comparator gets its turn.
    Lane,
    /// The scenario itself.
    Scenario,
}

/// The generator of `part`, of flow `index` where there is one for each.
#[must_use]
pub fn generator(seed: u64, part: Part, index: u64) -> Rng {
    // SplitMix64's finaliser (Steele, Lea, Flood 2014) keeps neighbours apart.
    let mut mixed = seed ^ (part as u64) << 56 ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    Rng::with_seed(mixed ^ mixed >> 31)
}

/// True `per_mille` times in a thousand.
pub fn happens(rng: &mut Rng, per_mille: u32) -> bool {
    per_mille > 0 && rng.u32(0..1000) < per_mille
}

/// One of `choices`.
pub fn one_of<T: Copy>(rng: &mut Rng, choices: &[T]) -> T {
    choices[rng.usize(0..choices.len())]
}
