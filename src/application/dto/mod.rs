//! What leaves: replies, views and events. Never a domain type.

mod event;
mod reply;
mod user;

pub use event::{EventPage, EventView, describe, render};
pub use reply::{ErrorReply, Reply};
pub use user::{PageMeta, UserView};
