//! Durations on the command line.

use std::time::Duration;

/// Reads a duration: with a unit (`250us`, `2ms`, `3s`), or a bare number of milliseconds, as in
/// QEMU.
///
/// # Errors
/// A message for people, when the text is neither.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    if let Ok(milliseconds) = text.parse::<u64>() {
        return Ok(Duration::from_millis(milliseconds));
    }
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write 3000 (milliseconds), 3s, 2ms or 250us"))
}

/// As [`parse`], for times that cannot be zero or longer than a day.
pub(super) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let span = parse(text)?;
    if span.is_zero() || span > Duration::from_secs(86_400) {
        return Err("must be more than zero and at most a day".into());
    }
    Ok(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_milliseconds() {
        assert_eq!(parse("3000"), Ok(Duration::from_secs(3)));
        assert_eq!(parse("2ms"), Ok(Duration::from_millis(2)));
        assert_eq!(parse("250us"), Ok(Duration::from_micros(250)));
        assert!(parse("soon").is_err());
    }

    #[test]
    fn a_timeout_of_zero_or_for_ever_is_refused() {
        assert!(parse_timeout("0").is_err());
        assert!(parse_timeout("4294967296").is_err());
        assert_eq!(parse_timeout("1"), Ok(Duration::from_millis(1)));
    }
}
