//! The comparator: `(side, frame, now)` in; releases, discards and divergences out.
