//! Whether there is a store to run commands in.

use tokio::sync::watch;

/// Whether the store answers. Lanes close it when they find that it does not; a probe opens it again.
#[derive(Debug, Clone)]
pub struct Gate {
    open: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self { open: watch::Sender::new(true) }
    }
}

impl Gate {
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    pub fn open(&self) {
        self.open.send_if_modified(|open| !std::mem::replace(open, true));
    }

    #[must_use]
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    #[must_use]
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.open.subscribe()
    }
}
