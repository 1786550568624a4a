//! How long to wait before the next try. The `backoff` crate is unmaintained (RUSTSEC-2025-0012):
//! only this file names it.

use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;

const LONGEST: Duration = Duration::from_secs(5);

/// Growing pauses with full jitter: the first within 100 ms, none above 5 s.
#[derive(Debug)]
pub(super) struct Pause(ExponentialBackoff);

impl Pause {
    pub(super) fn new() -> Self {
        // The crate spreads around the interval; a spread of 1 around half of the longest pause is
        // full jitter.
        Self(ExponentialBackoff {
            current_interval: Duration::from_millis(50),
            initial_interval: Duration::from_millis(50),
            randomization_factor: 1.0,
            multiplier: 2.0,
            max_interval: LONGEST / 2,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        })
    }

    pub(super) fn next(&mut self) -> Duration {
        self.0.next_backoff().unwrap_or(LONGEST).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_start_short_and_stay_bounded() {
        let mut pause = Pause::new();
        assert!(pause.next() <= Duration::from_millis(101));
        assert!((0..100).all(|_| pause.next() <= LONGEST));
    }
}
