//! `/livez`, `/readyz` and `/metrics`, for whoever runs the service. Nothing about users is served here.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::lifecycle::Health;

/// The endpoints, bound and not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    /// Binds `host:port`; with port 0, [`address`](Self::address) tells which it got.
    ///
    /// # Errors
    /// Where the address cannot be resolved or is taken; the text names it.
    pub async fn bind(address: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
        let address = listener.local_addr()?;
        tracing::info!(http = %address, "listening");
        Ok(Self { listener, address })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Writes the bound address to a file, which is there whole or not at all.
    ///
    /// # Errors
    /// Where it cannot be written; the text names the file.
    pub async fn announce(&self, file: &Path) -> io::Result<()> {
        let mut half = PathBuf::from(file).into_os_string();
        half.push(format!(".{}", std::process::id()));
        let written = async {
            tokio::fs::write(&half, format!("{}\n", self.address)).await?;
            tokio::fs::rename(&half, file).await
        };
        written.await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write {}: {error}", file.display()))
        })
    }

    /// Serves until `stop`, which should come last: a stopping service still answers probes.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn serve(
        self,
        health: Health,
        metrics: PrometheusHandle,
        stop: CancellationToken,
    ) -> io::Result<()> {
        axum::serve(self.listener, routes(health, metrics))
            .with_graceful_shutdown(stop.cancelled_owned())
            .await
    }
}

fn routes(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(exposition).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let snapshot = health.snapshot();
    let status = if snapshot.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(header::CACHE_CONTROL, "no-store")], Json(snapshot))
}

async fn exposition(State(metrics): State<PrometheusHandle>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics.render())
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_say_what_is_not_ready_and_why() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let (address, health, stop) = (server.address(), Health::default(), CancellationToken::new());
        let postgres = health.component("postgres");
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        let running = tokio::spawn(server.serve(health, metrics, stop.clone()));

        assert!(request(address, "/livez").await.starts_with("HTTP/1.1 200"));
        assert!(request(address, "/metrics").await.contains("text/plain; version=0.0.4"));
        let answer = request(address, "/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.contains(r#""postgres":{"state":"not_ready","reason":"starting"}"#), "{answer}");
        postgres.ready();
        assert!(request(address, "/readyz").await.starts_with("HTTP/1.1 200"));

        stop.cancel();
        running.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn the_bound_address_is_written_to_a_file() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let file = std::env::temp_dir().join(format!("roster-http-{}", uuid::Uuid::now_v7()));
        server.announce(&file).await.unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_eq!(text.trim().parse::<SocketAddr>().unwrap(), server.address());
    }

    #[tokio::test]
    async fn an_address_in_use_is_named() {
        let server = Server::bind("127.0.0.1:0").await.unwrap();
        let address = server.address().to_string();
        let error = Server::bind(&address).await.unwrap_err().to_string();
        assert!(error.contains(&address), "{error}");
    }
}
