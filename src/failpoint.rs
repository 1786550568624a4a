//! Places to die at and deliberate bugs, for the fault suite. Without the `failpoints` feature nothing of it is
//! compiled in.
//!
//! - `ROSTER_FAILPOINT=name:n` kills the process, as `kill -9` would, the n-th time it comes by `name`.
//! - `ROSTER_BY_PANIC` makes that a panic.
//! - `ROSTER_PANIC_ON` and `ROSTER_ABORT_ON` name message ids whose handling panics or kills the process.
//! - `ROSTER_CLOCK` sets the clock that commands are judged by so many seconds ahead, or behind.
//! - `ROSTER_BUG` names a bug to have, so that the checker can be seen to catch it.

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicI64, Ordering};

    /// Every place to die at, in the order a command passes them.
    pub const NAMES: [&str; 12] = [
        "after_delivery",
        "after_prepare",
        "in_transaction",
        "before_commit",
        "after_commit",
        "after_keeping",
        "before_reply",
        "after_reply",
        "after_ack",
        "relay_after_publish",
        "relay_after_confirm",
        "relay_after_delete",
    ];

    fn chosen() -> &'static Option<(String, AtomicI64)> {
        static CHOSEN: OnceLock<Option<(String, AtomicI64)>> = OnceLock::new();
        CHOSEN.get_or_init(|| {
            let text = std::env::var("ROSTER_FAILPOINT").ok()?;
            let (name, count) = text.split_once(':').unwrap_or((&text, "1"));
            Some((name.to_owned(), AtomicI64::new(count.parse().unwrap_or(1))))
        })
    }

    /// Dies here, if this is the place and the time.
    pub fn hit(name: &str) {
        debug_assert!(NAMES.contains(&name), "{name} is not in the list");
        if let Some((chosen, left)) = chosen()
            && chosen == name
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            assert!(std::env::var_os("ROSTER_BY_PANIC").is_none(), "told to panic here");
            if std::env::var_os("ROSTER_BUG").is_some() {
                // What the bug let go too early is to have left: what waits for its turn on this thread moves on.
                tokio::task::block_in_place(|| std::thread::sleep(std::time::Duration::from_millis(300)));
            }
            die();
        }
    }

    /// Panics or dies on a message that was told to do so.
    pub fn message(id: Option<&str>) {
        let Some(id) = id else { return };
        let names = |variable| std::env::var(variable).is_ok_and(|ids| ids.split(',').any(|one| one == id));
        assert!(!names("ROSTER_PANIC_ON"), "told to panic");
        if names("ROSTER_ABORT_ON") {
            die();
        }
    }

    /// Whether to have this bug.
    pub fn bug(name: &str) -> bool {
        static BUG: OnceLock<Option<String>> = OnceLock::new();
        BUG.get_or_init(|| std::env::var("ROSTER_BUG").ok()).as_deref() == Some(name)
    }

    /// How far the clock is wrong, in seconds.
    pub fn clock() -> i64 {
        static CLOCK: OnceLock<i64> = OnceLock::new();
        *CLOCK.get_or_init(|| {
            std::env::var("ROSTER_CLOCK").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
        })
    }

    fn die() {
        // Nothing is flushed and nobody is told, as with kill -9.
        std::process::abort();
    }
}

#[cfg(feature = "failpoints")]
pub use armed::{NAMES, bug, clock, hit, message};

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn hit(_: &str) {}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub const fn message(_: Option<&str>) {}

/// No.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[must_use]
pub const fn bug(_: &str) -> bool {
    false
}

/// It is not.
#[cfg(not(feature = "failpoints"))]
#[inline]
#[must_use]
pub const fn clock() -> i64 {
    0
}
