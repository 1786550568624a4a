//! The rules of user accounts: aggregates, value objects and the events they record.
//!
//! Nothing here knows of a database, a broker or a clock.

mod id;
mod user;
mod values;

pub use id::Id;
pub use user::{User, UserError, UserEvent, UserState};
pub use values::{Email, InvalidValue, PasswordHash, Role, UserName};
