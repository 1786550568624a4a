//! The broker's side of the adapters: connections, topology and the events' publisher.

pub mod load;

mod connection;
mod publisher;
mod topology;

pub use connection::{BrokerError, connect, in_time};
pub use lapin::Connection;
pub use publisher::{EventPublisher, Sent};
pub use topology::{Standing, Topology};
