//! Waits between tries, growing and jittered.
//!
//! The `backoff` crate is unmaintained (RUSTSEC-2025-0012), so it is used here alone; a successor need only give
//! the next wait.

use std::time::Duration;

use backoff::backoff::Backoff as _;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::application::ports::Patience;

/// Waits from `first`, doubling up to `longest`, each give or take a half.
#[derive(Debug)]
pub struct Waits(ExponentialBackoff);

impl Waits {
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self(
            ExponentialBackoffBuilder::new()
                .with_initial_interval(first)
                .with_max_interval(longest)
                .with_multiplier(2.0)
                .with_randomization_factor(0.5)
                .with_max_elapsed_time(None)
                .build(),
        )
    }

    /// Between tries to reach a server that is away: soon at first, and at most 1.5 s. To be back within 5 s of the
    /// server, time must be left for what comes after: a broker that was killed lets connections in a while before
    /// its queues have leaders again.
    #[must_use]
    pub fn for_servers() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(1))
    }

    pub fn next_wait(&mut self) -> Duration {
        // Without a limit on the whole there is always a next one.
        self.0.next_backoff().unwrap_or(Duration::from_secs(1))
    }

    /// After a success: begin with the shortest again.
    pub fn reset(&mut self) {
        self.0.reset();
    }
}

/// The waits between runs of a transaction that failed for something that passes.
#[derive(Debug, Clone, Copy, Default)]
pub struct BatchPatience;

impl Patience for BatchPatience {
    async fn pause(&self, attempt: u32) {
        let first = Duration::from_millis(10).saturating_mul(1 << attempt.min(5));
        tokio::time::sleep(Waits::new(first, Duration::from_secs(1)).next_wait()).await;
    }

    fn jitter(&self) -> f64 {
        rand::random()
    }
}
