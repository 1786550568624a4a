//! The adapters: what the application's ports stand for outside.

pub mod clock;
pub mod crypto;
pub mod passwords;
pub mod postgres;
pub mod rabbitmq;
pub mod relay;
pub mod retry;
