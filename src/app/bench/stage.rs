//! Where the bench plays: its namespace, its database, and their end.

use secrecy::ExposeSecret;
use uuid::Uuid;

use super::{BenchError, Plan};
use crate::infrastructure::postgres::bench::BenchDatabase;
use crate::infrastructure::rabbitmq::load::{delete_subscriber, purge, ready, user_of};
use crate::infrastructure::rabbitmq::{Connection, Topology, connect};

#[derive(Debug)]
pub(super) struct Stage {
    pub namespace: String,
    pub amqp_url: String,
    /// The broker's name for who sends.
    pub user: String,
    pub secret: String,
    pub database: BenchDatabase,
    topology: Topology,
}

impl Stage {
    pub async fn build(plan: &Plan) -> Result<Self, BenchError> {
        let id = plan.id.clone().unwrap_or_else(|| Uuid::now_v7().simple().to_string());
        let prefix: String = plan.namespace.chars().take(60).collect();
        let namespace = format!("{prefix}.bench-{id}");
        let amqp_url = plan.amqp_url.expose().to_owned();
        let user = user_of(&amqp_url)?;
        let topology = Topology::new(namespace.as_str());
        let name = format!("roster_bench_{id}");
        let database = BenchDatabase::create(plan.database_url.as_secret(), &name).await?;
        // A secret for this run alone.
        let secret = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let stage = Self { namespace, amqp_url, user, secret, database, topology };
        match stage.furnish(plan.users).await {
            Ok(()) => Ok(stage),
            Err(error) => {
                stage.strike().await?;
                Err(error)
            }
        }
    }

    async fn furnish(&self, users: u64) -> Result<(), BenchError> {
        self.topology.declare(&self.connect("set-up").await?, None).await?;
        self.database.add_users(0, users).await?;
        Ok(self.database.tidy().await?)
    }

    /// A connection of the load's own.
    pub async fn connect(&self, what: &str) -> Result<Connection, BenchError> {
        Ok(connect(&self.amqp_url, &format!("roster bench {what}")).await?)
    }

    pub fn database_url(&self) -> &str {
        self.database.url().expose_secret()
    }

    /// How many commands nobody has taken.
    pub async fn commands_left(&self) -> Result<u32, BenchError> {
        let connection = self.connect("set-up").await?;
        Ok(ready(&connection, &format!("{}.commands", self.namespace)).await?)
    }

    /// Throws away the commands that wait.
    pub async fn empty_commands(&self) -> Result<(), BenchError> {
        let connection = self.connect("set-up").await?;
        Ok(purge(&connection, &format!("{}.commands", self.namespace)).await?)
    }

    /// Deletes everything that was made; tries all of it before it fails.
    pub async fn strike(self) -> Result<(), BenchError> {
        let broker = async {
            let connection = self.connect("clean-up").await?;
            delete_subscriber(&connection, &self.namespace).await?;
            self.topology.delete(&connection).await?;
            Ok::<(), BenchError>(())
        };
        let broker = broker.await;
        self.database.drop().await?;
        broker
    }
}
