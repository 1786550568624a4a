//! The system's clock.

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};

use crate::application::ports::Clock;
use crate::failpoint;

/// Whole milliseconds: a user's times and those of its events are then the same wherever they are shown.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> DateTime<Utc> {
        (Utc::now() + TimeDelta::seconds(failpoint::clock())).trunc_subsecs(3)
    }
}
