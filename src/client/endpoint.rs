//! Where the broker is and what its objects are called. Holds the URL and never shows it.

use std::fmt;

use lapin::types::ShortString;
use lapin::uri::{AMQPUri, SASLMechanism};

use super::error::BadRequest;
use crate::config::ipv6_host;

const HEARTBEAT_SECONDS: u16 = 10;

#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) uri: AMQPUri,
    namespace: String,
}

/// The two ways in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Commands,
    Queries,
}

impl Endpoint {
    pub(super) fn new(url: &str, namespace: &str) -> Result<Self, BadRequest> {
        let mut uri: AMQPUri = url.parse().map_err(|_| BadRequest::Url)?;
        if let Some(host) = ipv6_host(url) {
            host.clone_into(&mut uri.authority.host);
        }
        // Without one the server's 60 s hold, and a dead peer is noticed only after two of them.
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        if namespace.len() > 200 {
            return Err(BadRequest::TooLong("the namespace"));
        }
        Ok(Self { uri, namespace: namespace.to_owned() })
    }

    /// Host and port, fit to be shown.
    pub(super) fn host(&self) -> String {
        let (host, port) = (&self.uri.authority.host, self.uri.authority.port);
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }

    /// The name the broker will check `user_id` against; none where the URL does not tell it.
    pub(super) fn user(&self) -> Option<ShortString> {
        if let Some(SASLMechanism::External | SASLMechanism::Anonymous) = self.uri.query.auth_mechanism {
            return None;
        }
        ShortString::try_new(self.uri.authority.userinfo.username.as_str()).ok()
    }

    /// The exchange to publish to; its queue has the same name.
    pub(super) fn lane(&self, lane: Lane) -> ShortString {
        match lane {
            Lane::Commands => self.object("commands"),
            Lane::Queries => self.object("queries"),
        }
    }

    pub(super) fn events(&self) -> ShortString {
        self.object("events")
    }

    fn object(&self, name: &str) -> ShortString {
        // Cannot fail: `new` has bounded the namespace.
        ShortString::try_new(format!("{}.{name}", self.namespace)).unwrap_or_default()
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host())
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_namespace_and_credentials_stay_hidden() {
        let endpoint = Endpoint::new("amqp://ada:hunter2@example.com/%2f", "people").unwrap();
        assert_eq!(endpoint.lane(Lane::Commands).as_str(), "people.commands");
        assert_eq!(endpoint.lane(Lane::Queries).as_str(), "people.queries");
        assert_eq!(endpoint.events().as_str(), "people.events");
        assert_eq!(endpoint.user().unwrap().as_str(), "ada");
        assert_eq!(endpoint.uri.query.heartbeat, Some(10));
        let shown = format!("{endpoint:?}");
        assert!(shown.contains("example.com:5672") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn an_ipv6_address_is_the_host() {
        let endpoint = Endpoint::new("amqp://ada:hunter2@[fd00::5]:5673/%2f", "people").unwrap();
        assert_eq!(
            (endpoint.uri.authority.host.as_str(), endpoint.host().as_str()),
            ("fd00::5", "[fd00::5]:5673")
        );
    }

    #[test]
    fn a_bad_url_is_not_repeated() {
        let error = Endpoint::new("http://ada:hunter2@example.com", "roster").unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }
}
