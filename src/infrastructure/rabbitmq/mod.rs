//! The broker's side of the adapters: connections, topology and the events' publisher.

pub mod load;

mod connection;
mod detour;
mod mending;
mod publisher;
mod topology;

pub use connection::{BrokerError, connect, connect_mended, connect_to_publish, in_time, is_unreadable};
pub use lapin::Connection;
pub use publisher::{EventPublisher, Sent};
pub use topology::{Part, Standing, State, Topology};
