//! `roster health`: asks a worker's `/readyz`, for health checks of containers.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{fail, say};
use crate::config::HttpAddress;

/// For the whole answer.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// Where the worker answers HTTP; 0.0.0.0 is asked on loopback
    #[arg(long, env = "ROSTER_HTTP", value_name = "ADDRESS", default_value = "127.0.0.1:9464")]
    http: HttpAddress,
}

pub(super) async fn run(args: &HealthArgs) -> ExitCode {
    let HttpAddress::At(address) = &args.http else {
        return fail("ROSTER_HTTP is off, so there is nobody to ask");
    };
    let address = address.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]");
    match tokio::time::timeout(PATIENCE, ask(&address)).await {
        Ok(Ok((true, body))) => {
            say(body);
            ExitCode::SUCCESS
        }
        Ok(Ok((false, body))) => fail(body),
        Ok(Err(error)) => fail(format!("nobody answers on {address}: {error}")),
        Err(_) => fail(format!("no answer from {address} within {} s", PATIENCE.as_secs())),
    }
}

async fn ask(address: &str) -> io::Result<(bool, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((answer.starts_with("HTTP/1.1 200"), body))
}
