//! `roster topology`: the objects on the broker.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::{fail, say};
use crate::app;
use crate::config::BrokerArgs;

#[derive(Debug, Args)]
pub(super) struct TopologyArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Declare what is missing; what stands there otherwise is an error
    Declare {
        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Show what stands there, with the messages and consumers of each queue
    Show {
        #[command(flatten)]
        broker: BrokerArgs,
    },
    /// Delete every exchange and queue of the namespace, with all messages in them
    Delete {
        /// Yes, with all messages in them
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        broker: BrokerArgs,
    },
}

pub(super) async fn run(args: TopologyArgs) -> ExitCode {
    let done = match args.what {
        What::Declare { broker } => app::topology::declare(&broker).await,
        What::Show { broker } => app::topology::show(&broker).await,
        What::Delete { yes: false, .. } => {
            return fail("this deletes every queue with all messages in it; add --yes if you mean it");
        }
        What::Delete { yes: true, broker } => app::topology::delete(&broker).await,
    };
    match done {
        Ok(lines) => {
            lines.iter().for_each(say);
            ExitCode::SUCCESS
        }
        Err(error) => fail(error),
    }
}
