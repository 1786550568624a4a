//! How another connection to the broker is opened, by those who cannot name what opens it.

use std::fmt;
use std::sync::Arc;

use lapin::Connection;

use crate::application::ports::Pending;

type Dialled = Pending<'static, Result<Connection, String>>;

/// Opens a connection, within bounds; the error is for people.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn() -> Dialled + Send + Sync>);

impl Dial {
    pub fn new<F: Future<Output = Result<Connection, String>> + Send + 'static>(
        dial: impl Fn() -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move || Box::pin(dial())))
    }

    pub(super) async fn connect(&self) -> Result<Connection, String> {
        (self.0)().await
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}
