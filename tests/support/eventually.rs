//! Waiting for something to become true, with a message that says what was still missing.

use std::time::{Duration, Instant};

use super::PATIENCE;

/// Calls `attempt` until it gives `Ok`, at most [`PATIENCE`] long; an `Err` says what is missing.
pub async fn eventually<T>(what: &str, attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    within(what, PATIENCE, attempt).await
}

/// Like [`eventually`], with a limit of its own.
pub async fn within<T>(what: &str, limit: Duration, attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    match patiently(limit, attempt).await {
        Ok(value) => value,
        Err(missing) => panic!("{what}: not within {limit:?}: {missing}"),
    }
}

/// Like [`within`], for what somebody else is to judge: `Err` says what was missing at the end.
pub async fn patiently<T>(
    limit: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(10);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(missing) if start.elapsed() > limit => return Err(missing),
            Err(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
}
