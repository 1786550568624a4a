//! How connections are made: small pools for commands, lists and lookups, and sessions of their own.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::pool::{PoolConnectionMetadata, PoolOptions};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, Postgres};

use crate::application::error::{Failure, FailureKind};

use super::errors;
use super::loan::answered;
use super::shelf::{FRESH, PING, Shelf};

/// How a process's connections are shared out, beside the one that the relay's session has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shares {
    /// One for each lane, and for what runs beside them, if there are so many.
    commands: u32,
    /// For looking up users by their keys.
    lookers: u32,
    /// For lists, and for the one that listens for other processes' batches.
    readers: u32,
}

impl Shares {
    const RELAY: u32 = 1;

    fn of(lanes: u32, most: u32) -> Self {
        let commands = most.saturating_sub(5).clamp(2, lanes.saturating_add(4));
        let rest = most.saturating_sub(Self::RELAY + commands);
        let lookers = if rest < 5 { 1 } else { 2 };
        Self { commands, lookers, readers: rest.saturating_sub(lookers).max(2) }
    }
}

/// The pools of one process. Nothing connects before it is used.
#[derive(Debug, Clone)]
pub struct Connections {
    pub commands: PgPool,
    pub queries: PgPool,
    pub(super) shelf: Arc<Shelf>,
    pub(super) readers: Arc<Shelf>,
    pub(super) lookers: Arc<Shelf>,
    lookups: PgPool,
    options: PgConnectOptions,
}

impl Connections {
    /// At most `most` connections, but six at least.
    ///
    /// # Errors
    /// A [`Failure`] where the URL cannot be read; it does not repeat the URL.
    pub fn new(url: &SecretString, lanes: u32, most: u32) -> Result<Self, Failure> {
        let Shares { commands, lookers, readers } = Shares::of(lanes, most);
        let options = options(url)?;
        // These touch single rows only, in statements of one shape. A plan made while a table was small must not
        // scan it when it has grown; and planning a batch of one anew costs more than carrying it out.
        let pointed =
            options.clone().options([("enable_seqscan", "off"), ("plan_cache_mode", "force_generic_plan")]);
        // So many of a pool's connections are used beside the shelf.
        let shelved = |size, beside, options| {
            let pool = pool(size).connect_lazy_with(options);
            (Arc::new(Shelf::new(pool.clone(), size - beside)), pool)
        };
        let (shelf, commands) = shelved(commands, 1, pointed.clone());
        let (lookers, lookups) = shelved(lookers, 0, pointed.clone());
        let (readers, queries) = shelved(readers, 1, options);
        Ok(Self { shelf, lookers, readers, commands, lookups, queries, options: pointed })
    }

    /// As [`new`](Self::new), for a command-line tool.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn few(url: &SecretString) -> Result<Self, Failure> {
        Self::new(url, 1, 6)
    }

    /// A session outside the pools, which ends when it is not used for `idle`.
    ///
    /// # Errors
    /// A [`Failure`] of the store.
    pub async fn session(&self, idle: Duration) -> Result<PgConnection, Failure> {
        let idle = idle.as_millis().to_string();
        let options = self.options.clone().options([("idle_session_timeout", idle)]);
        let mut connection = answered(options.connect()).await?;
        answered(refuse_standby(&mut connection)).await?;
        Ok(connection)
    }

    /// Waits for whoever still uses a connection.
    pub async fn close(&self) {
        self.shelf.clear();
        self.readers.clear();
        self.lookers.clear();
        tokio::join!(self.commands.close(), self.queries.close(), self.lookups.close());
    }
}

fn options(url: &SecretString) -> Result<PgConnectOptions, Failure> {
    let text = url.expose_secret();
    let options: PgConnectOptions = text
        .parse()
        .map_err(|_| Failure::new(FailureKind::Permanent, "DATABASE_URL is not a Postgres URL"))?;
    // Under TLS the driver leaves Nagle's algorithm on, which stalls large statements by 40 ms.
    let loopback = ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&options.get_host());
    let options = if loopback && !text.contains("sslmode") && !text.contains("ssl-mode") {
        options.ssl_mode(PgSslMode::Disable)
    } else {
        options
    };
    // The driver would print whole statements where they are slow; how long batches take is a metric.
    let options = options.disable_statement_logging();
    Ok(options.application_name("roster").options([
        ("statement_timeout", "10s"),
        ("lock_timeout", "3s"),
        ("idle_in_transaction_session_timeout", "15s"),
        ("jit", "off"),
        // A long list must not take the cores from the commands.
        ("max_parallel_workers_per_gather", "0"),
        ("timezone", "UTC"),
    ]))
}

fn pool(size: u32) -> PoolOptions<Postgres> {
    PgPoolOptions::new()
        .max_connections(size)
        .acquire_timeout(Duration::from_secs(3))
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(refuse_standby(connection)))
        // A connection that comes back is pinged without a time limit, and one that no server answers on would
        // keep its place in the pool for good: so it is pinged here before, within one.
        .after_release(|connection, _| {
            Box::pin(async move {
                let answer = tokio::time::timeout(PING, connection.ping()).await;
                answer.map_err(|_| sqlx::Error::PoolTimedOut)?.map(|()| true)
            })
        })
        .before_acquire(|connection, rested: PoolConnectionMetadata| {
            Box::pin(async move {
                if rested.idle_for > FRESH {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
}

/// After a failover the old address may lead to a server that only reads.
async fn refuse_standby(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let read_only: String = sqlx::query_scalar("show transaction_read_only").fetch_one(connection).await?;
    if read_only == "on" { Err(errors::read_only()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("postgres://postgres@127.0.0.1/roster", true)]
    #[case("postgres://postgres@localhost/roster?sslmode=require", false)]
    #[case("postgres://postgres@db.example.com/roster", false)]
    fn only_loopback_goes_without_tls_unasked(#[case] url: &str, #[case] plain: bool) {
        let mode = options(&SecretString::from(url)).unwrap().get_ssl_mode();
        assert_eq!(matches!(mode, PgSslMode::Disable), plain);
    }

    #[rstest]
    #[case::by_default(4, 14, 8, 2, 3)]
    #[case::many_lanes(16, 26, 20, 2, 3)]
    #[case::more_for_lists(4, 20, 8, 2, 9)]
    #[case::fewer_than_lanes(16, 10, 5, 1, 3)]
    #[case::the_least(4, 6, 2, 1, 2)]
    fn connections_are_shared_out_and_no_more_than_there_are(
        #[case] lanes: u32,
        #[case] most: u32,
        #[case] commands: u32,
        #[case] lookers: u32,
        #[case] readers: u32,
    ) {
        assert_eq!(Shares::of(lanes, most), Shares { commands, lookers, readers });
        assert_eq!(Shares::RELAY + commands + lookers + readers, most);
    }

    #[test]
    fn a_url_that_cannot_be_read_is_not_repeated() {
        let failure = options(&SecretString::from("postgres://u:secret@[")).unwrap_err();
        assert!(!failure.what.contains("secret"));
    }
}
