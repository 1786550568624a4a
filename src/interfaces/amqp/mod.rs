//! Commands and queries in, replies and acknowledgements out.

mod acks;
mod answers;
mod batches;
mod dial;
mod gate;
mod gathering;
mod intake;
mod item;
mod lanes;
mod parked;
mod pipe;
mod queries;
mod replies;
mod session;
mod settle;
mod wire;

pub use dial::Dial;
pub use gate::Gate;
pub use intake::{Flow, Intake};
pub use item::InHand;
pub use lanes::{Lanes, LanesConfig};
pub use parked::collect_parked;
pub use pipe::{Emit, answer_at_once, pass_through};
pub use queries::answer_queries;
pub use session::{Session, SessionError};
pub use settle::Forget;
pub use wire::{delivery_count, parked_for, raw};
