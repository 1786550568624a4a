//! The typed client for Rust callers: one connection, many concurrent calls, answers as values.
//!
//! It speaks only the public wire contract, as a caller in any other language would. A command is
//! sent again with the same `message_id` when no answer comes; the worker applies it once and
//! repeats its answer.
//!
//! ```no_run
//! use roster::client::{Client, CreateUser, Error, GetUser, Options};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect("amqp://localhost", Options::default()).await?;
//! let create = CreateUser::new("ada@example.com".parse()?, "Ada Lovelace".parse()?, "correct horse");
//! match client.send(create).await {
//!     Ok(user) => println!("{} is at version {}", user.id, user.version),
//!     Err(Error::Refused(refusal)) if refusal.has_reason("email_taken") => println!("known already"),
//!     Err(error) => return Err(error.into()),
//! }
//! let ada = client.query(GetUser::by_email("ada@example.com".parse()?)).await?.data;
//! println!("{} since {}", ada.name, ada.created_at);
//! # Ok(())
//! # }
//! ```
//!
//! A service that would rather not depend on these payloads writes its own:
//!
//! ```no_run
//! use roster::client::{Client, Command, Error};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize)]
//! struct Rename {
//!     id: String,
//!     name: String,
//! }
//!
//! #[derive(Deserialize)]
//! struct Renamed {
//!     version: u64,
//! }
//!
//! impl Command for Rename {
//!     const NAME: &'static str = "user.update.v1";
//!     type Reply = Renamed;
//! }
//!
//! # async fn example(client: Client) -> Result<(), Error> {
//! let rename = Rename { id: "0198…".into(), name: "Ada Lovelace".into() };
//! println!("now at version {}", client.send(rename).await?.version);
//! # Ok(())
//! # }
//! ```

mod call;
mod endpoint;
mod error;
mod events;
mod link;
mod pause;
mod pending;
mod request;
mod sequence;
mod session;

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;

use call::Call;
use endpoint::{Endpoint, Lane};
use link::Link;

pub use crate::application::command::{ChangePassword, ChangeRole, CreateUser, DeleteUser, UpdateUser};
pub use crate::application::dto::{EventPage, EventView, PageMeta, UserView};
pub use crate::application::message::NoMeta;
pub use crate::application::password::Password;
pub use crate::application::query::{GetUser, ListEvents, ListUsers, Order, Sort};
pub use crate::domain::{Email, Role, UserName};
pub use error::{BadReply, BadRequest, Code, Detail, Error, Refusal, Unavailable};
pub use events::{Event, Events, Gap};
pub use request::{Answer, CallOptions, Command, Query, RawReply, Reply};

/// What identifies a user.
pub type UserId = crate::domain::Id<crate::domain::User>;

/// What holds for all calls of a client; a single call differs with [`CallOptions`].
#[derive(Debug, Clone)]
pub struct Options {
    /// Prefix of every broker object, `roster` unless the installation says otherwise.
    pub namespace: String,
    /// How long one try waits for its answer: 10 s.
    pub timeout: Duration,
    /// How many tries a call has, the first included: 3. The whole call takes at most
    /// `timeout × attempts`.
    pub attempts: u32,
    /// How long after the call began the worker may still execute it. None: for ever.
    pub deadline: Option<Duration>,
    /// The access token of the user on whose behalf everything is sent.
    pub token: Option<SecretString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: "roster".to_owned(),
            timeout: Duration::from_secs(10),
            attempts: 3,
            deadline: None,
            token: None,
        }
    }
}

/// A connection to the worker's broker. Clones share it; the last one to go closes it.
#[derive(Debug, Clone)]
pub struct Client {
    link: Arc<Link>,
    options: Arc<Options>,
}

impl Client {
    /// Connects. Later losses of the connection are repaired in the background, with growing
    /// pauses; the first failure is told here.
    ///
    /// Requests carry the URL's user name as `user_id`: a service identity that the broker checks.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for a URL or namespace that cannot be, [`Error::Unavailable`] when the
    /// broker cannot be reached or does not let this user in.
    pub async fn connect(url: &str, options: Options) -> Result<Self, Error> {
        let endpoint = Endpoint::new(url, &options.namespace)?;
        Ok(Self { link: Arc::new(Link::open(endpoint).await?), options: Arc::new(options) })
    }

    /// The same connection, on behalf of the user this access token names.
    #[must_use]
    pub fn with_token(&self, token: SecretString) -> Self {
        let options = Options { token: Some(token), ..Options::clone(&self.options) };
        Self { link: Arc::clone(&self.link), options: Arc::new(options) }
    }

    /// Sends a command and waits for what it came to.
    ///
    /// # Errors
    /// [`Error::Refused`] when the worker says no, [`Error::TimedOut`] when it says nothing,
    /// [`Error::Unavailable`] when it was never sent.
    pub async fn send<C: Command>(&self, command: C) -> Result<C::Reply, Error> {
        let reply = self.send_with(command, CallOptions::default()).await?;
        Ok(reply.data)
    }

    /// As [`Client::send`], with options for this call, and with the whole reply.
    ///
    /// ```no_run
    /// # use roster::client::{CallOptions, Client, Command, Error};
    /// # async fn example<C: Command + Clone>(client: Client, command: C) -> Result<(), Error> {
    /// let first = client.send_with(command.clone(), CallOptions::default()).await?;
    /// // The same command again is answered, not repeated.
    /// let again = CallOptions { message_id: Some(first.message_id), ..CallOptions::default() };
    /// assert!(client.send_with(command, again).await?.replayed);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_with<C: Command>(
        &self,
        command: C,
        options: CallOptions,
    ) -> Result<Reply<C::Reply>, Error> {
        let body = serde_json::to_vec(&command).map_err(BadRequest::Payload)?;
        let raw = self.call(Lane::Commands, C::NAME, body, options).await?;
        let answer = read::<_, IgnoredAny>(&raw)?;
        Ok(Reply { data: answer.data, replayed: raw.replayed, message_id: raw.message_id })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn query<Q: Query>(&self, query: Q) -> Result<Answer<Q::Reply, Q::Meta>, Error> {
        self.query_with(query, CallOptions::default()).await
    }

    /// As [`Client::query`], with options for this call.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn query_with<Q: Query>(
        &self,
        query: Q,
        options: CallOptions,
    ) -> Result<Answer<Q::Reply, Q::Meta>, Error> {
        let body = serde_json::to_vec(&query).map_err(BadRequest::Payload)?;
        read(&self.call(Lane::Queries, Q::NAME, body, options).await?)
    }

    /// Sends a command of any type; the body goes out as it is, and the reply comes back as it is,
    /// a refusal included.
    ///
    /// # Errors
    /// As [`Client::send`], but for [`Error::Refused`].
    pub async fn send_json(
        &self,
        name: &str,
        body: impl Into<Vec<u8>>,
        options: CallOptions,
    ) -> Result<RawReply, Error> {
        self.call(Lane::Commands, name, body.into(), options).await
    }

    /// As [`Client::send_json`], for a query.
    ///
    /// # Errors
    /// As [`Client::send_json`].
    pub async fn query_json(
        &self,
        name: &str,
        body: impl Into<Vec<u8>>,
        options: CallOptions,
    ) -> Result<RawReply, Error> {
        self.call(Lane::Queries, name, body.into(), options).await
    }

    /// Subscribes to events whose type matches the pattern (`*` is one word, `#` any number):
    /// `user.*.v1`, `#`. When this returns, no later event is missed but by a lost connection,
    /// which the stream tells.
    ///
    /// Repeats are dropped. With a pattern that lets all events of a user or session through, a
    /// jump in the sequence comes as [`Error::Gap`] before the event that shows it.
    ///
    /// ```no_run
    /// # use roster::client::{Client, Error};
    /// # async fn example(client: Client) -> Result<(), Error> {
    /// let mut events = client.events("user.*.v1").await?;
    /// while let Some(event) = events.next().await {
    ///     match event {
    ///         Ok(event) => println!("{} {} {}", event.sequence, event.kind, event.subject),
    ///         Err(Error::Gap(gap)) => {
    ///             for event in client.missed(&gap).await? {
    ///                 println!("{} {} {}", event.sequence, event.kind, event.subject);
    ///             }
    ///         }
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the exchange does not exist or the client is closed.
    pub async fn events(&self, pattern: &str) -> Result<Events, Error> {
        let pattern = call::short(pattern, "the pattern")?;
        events::subscribe(Arc::clone(&self.link), pattern).await
    }

    /// The events a gap left out, oldest first; fewer when the worker no longer keeps them.
    ///
    /// # Errors
    /// As [`Client::query`]; listing events takes an admin or a reader service.
    pub async fn missed(&self, gap: &Gap) -> Result<Vec<Event>, Error> {
        let mut found = Vec::new();
        let mut after = gap.expected.saturating_sub(1);
        while after + 1 < gap.found {
            let limit = (gap.found - after - 1).min(500);
            let query = json!({"subject": gap.subject, "after_sequence": after, "limit": limit});
            let raw = self.query_json("event.list.v1", query.to_string(), CallOptions::default()).await?;
            let page = read::<Vec<serde_json::Value>, IgnoredAny>(&raw)?.data;
            let before = found.len();
            for event in page {
                let event = Event::from_json(event.to_string().into_bytes()).map_err(Error::BadEvent)?;
                after = after.max(event.sequence);
                if event.sequence < gap.found {
                    found.push(event);
                }
            }
            if found.len() == before {
                break;
            }
        }
        Ok(found)
    }

    /// Closes the connection. Calls and streams of all clones end.
    pub async fn close(&self) {
        self.link.close().await;
    }

    async fn call(&self, lane: Lane, name: &str, body: Vec<u8>, own: CallOptions) -> Result<RawReply, Error> {
        let call = Call { link: &self.link, lane, name, body, options: &self.options, own };
        call.run().await
    }
}

fn read<T: DeserializeOwned, M: DeserializeOwned>(raw: &RawReply) -> Result<Answer<T, M>, Error> {
    match raw.read() {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(refusal)) => Err(Error::Refused(refusal)),
        Err(problem) => Err(Error::BadReply { message_id: raw.message_id, problem }),
    }
}
