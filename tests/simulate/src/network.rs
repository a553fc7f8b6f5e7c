//! What happens to what is sent: loss, copies, delay, order, damage.

use fastrand::Rng;

use crate::chance::happens;
use crate::scenario::Path;
use crate::time::{MICROSECOND, Time};

/// One direction of one flow.
#[derive(Debug, Clone)]
pub struct Line {
    path: Path,
    dice: Rng,
    /// Nothing that is not late arrives before this.
    last: Time,
    /// The latest arrival of all.
    latest: Time,
    /// Nothing at all arrives before this.
    floor: Time,
}

/// What becomes of something that was sent.
#[derive(Debug, Clone, Default)]
pub struct Passage {
    /// When it arrives; twice, once or never.
    pub arrivals: Vec<Time>,
    /// It is damaged: where, as a random number, and how.
    pub damage: Option<(u64, u8)>,
    /// It arrives late.
    pub late: bool,
}

impl Line {
    /// A line that nothing has passed yet.
    #[must_use]
    pub fn new(path: Path, dice: Rng) -> Self {
        Self { path, dice, last: 0, latest: 0, floor: 0 }
    }

    /// From here on nothing goes wrong.
    pub fn calm(&mut self) {
        self.path = self.path.calmed();
    }

    /// What is sent from here on arrives behind all that was sent before.
    pub fn fence(&mut self) {
        self.floor = self.latest + 1;
    }

    /// Sends something.
    pub fn send(&mut self, now: Time) -> Passage {
        let mut passage = Passage::default();
        if happens(&mut self.dice, self.path.loss) {
            return passage;
        }
        let late = happens(&mut self.dice, self.path.late);
        passage.late = late;
        let usual = now + self.delay();
        let at = if late {
            usual + self.dice.u64(0..=u64::from(self.path.lateness)) * MICROSECOND
        } else {
            self.last = self.last.max(usual);
            self.last
        };
        passage.arrivals.push(at.max(self.floor));
        if happens(&mut self.dice, self.path.twice) {
            let again = at + self.dice.u64(0..=u64::from(self.path.lateness)) * MICROSECOND;
            passage.arrivals.push(again.max(self.floor));
        }
        if happens(&mut self.dice, self.path.damage) {
            passage.damage = Some((self.dice.u64(..), self.dice.u8(1..)));
        }
        self.latest = passage.arrivals.iter().fold(self.latest, |latest, at| latest.max(*at));
        passage
    }

    fn delay(&mut self) -> Time {
        (u64::from(self.path.delay) + self.dice.u64(0..=u64::from(self.path.jitter))) * MICROSECOND
    }
}
