//! What the tests stand on: a stage with servers, workers, callers and subscribers; a proxy that
//! injects network faults; and the checker, which judges a run from outside.
#![allow(dead_code, reason = "a harness offers more than any one state of the suite uses")]

pub mod broker;
pub mod caller;
pub mod checker;
pub mod database;
pub mod eventually;
pub mod history;
pub mod http;
pub mod load;
pub mod people;
pub mod private;
pub mod proxy;
pub mod random;
pub mod request;
pub mod run;
pub mod stage;
pub mod subscriber;
pub mod tables;
pub mod worker;

pub use caller::Caller;
pub use eventually::eventually;
pub use people::person;
pub use request::{Reply, Request};
pub use stage::Stage;
pub use subscriber::Subscriber;
pub use worker::Worker;

/// How long anything is waited for: the machine may be busy with other people's work, so no test
/// asserts a tighter time than this.
pub const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
