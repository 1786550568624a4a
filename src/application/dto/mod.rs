//! What leaves: replies, views and events. Never a domain type.

mod event;
mod event_data;
mod reply;
mod user;

pub use event::{EventPage, EventView, render};
pub use event_data::{EventContract, describe, event_contracts};
pub use reply::{ErrorReply, Reply};
pub use user::{PageMeta, UserView};
