//! A TCP proxy that stands between a worker and a server and injects network faults.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// After it the server's side of a stranded connection is gone: a server has only so many.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// What is done to the traffic at the moment.
#[derive(Clone, Debug, Default)]
struct Faults {
    /// Added to every chunk, in each direction.
    latency: Duration,
    /// Largest write in bytes; 0 for no limit.
    slice: usize,
    /// Nothing is forwarded; connections stay open.
    black_hole: bool,
    /// New connections are reset at once.
    refuse: bool,
    /// Connections made before this count is reached are reset.
    resets: u64,
    /// Connections made before this count is reached stay open and dead, for good.
    strands: u64,
}

#[derive(Debug)]
struct State {
    /// The first that lets us in is forwarded to.
    upstreams: Mutex<Vec<String>>,
    faults: watch::Sender<Faults>,
    /// Bytes that may still pass, on all connections together, before one is cut.
    budget: Mutex<Option<usize>>,
    /// Connections accepted so far.
    accepted: watch::Sender<u64>,
}

/// Forwards `address` to its upstream. Closes everything when dropped.
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback and forwards to `upstream` (`host:port`).
    pub async fn start(upstream: &str) -> Self {
        Self::before(vec![upstream.to_owned()]).await
    }

    /// As a load balancer does: each connection goes to the first of `upstreams` that takes it.
    pub async fn before(upstreams: Vec<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("the port's number");
        let state = Arc::new(State {
            upstreams: Mutex::new(upstreams),
            faults: watch::Sender::new(Faults::default()),
            budget: Mutex::new(None),
            accepted: watch::Sender::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, task }
    }

    /// Delays everything by `latency`, in each direction.
    pub fn latency(&self, latency: Duration) {
        self.change(|faults| faults.latency = latency);
    }

    /// Forwards in writes of at most `bytes`.
    pub fn slice(&self, bytes: usize) {
        self.change(|faults| faults.slice = bytes);
    }

    /// Forwards nothing more and keeps everything open; [`Proxy::heal`] lets it flow again.
    pub fn black_hole(&self) {
        self.change(|faults| faults.black_hole = true);
    }

    /// Ends every present connection with a TCP reset.
    pub fn reset(&self) {
        self.change(|faults| faults.resets += 1);
    }

    /// Leaves every present connection half-open for good; new ones work.
    pub fn strand(&self) {
        self.change(|faults| faults.strands += 1);
    }

    /// Resets every new connection, until healed.
    pub fn refuse(&self) {
        self.change(|faults| faults.refuse = true);
    }

    /// Lets `bytes` more pass, on all connections together, then resets the one that is at it.
    pub fn cut_after(&self, bytes: usize) {
        *self.state.budget.lock().expect("the budget") = Some(bytes);
    }

    /// Forwards new connections to another server.
    pub fn switch(&self, upstream: &str) {
        *self.state.upstreams.lock().expect("the upstreams") = vec![upstream.to_owned()];
    }

    /// Ends every fault; stranded and reset connections stay lost.
    pub fn heal(&self) {
        *self.state.budget.lock().expect("the budget") = None;
        self.change(|faults| {
            *faults = Faults { resets: faults.resets, strands: faults.strands, ..Faults::default() };
        });
    }

    /// Connections accepted since the start.
    pub fn accepted(&self) -> u64 {
        *self.state.accepted.borrow()
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        self.state.faults.send_modify(change);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                state.accepted.send_modify(|count| *count += 1);
                connections.spawn(serve(client, Arc::clone(&state)));
            }
        }
    }
}

async fn serve(mut client: TcpStream, state: Arc<State>) {
    let at_start = state.faults.borrow().clone();
    let upstreams = state.upstreams.lock().expect("the upstreams").clone();
    let server = match at_start.refuse {
        true => None,
        false => first_of(upstreams).await,
    };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let end = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::select! {
            end = both(
                forward(client_read, server_write, &state),
                forward(server_read, client_write, &state),
            ) => end,
            end = struck(&at_start, state.faults.subscribe()) => end,
        }
    };
    match end {
        End::Closed => {}
        End::Reset => {
            let _ = (client.set_zero_linger(), server.set_zero_linger());
        }
        End::Stranded => {
            // The server's keep-alive would find out sooner or later; the client never hears of it.
            tokio::time::sleep(KEEP_ALIVE).await;
            drop(server);
            pending().await
        }
    }
}

async fn first_of(upstreams: Vec<String>) -> Option<TcpStream> {
    for upstream in upstreams {
        if let Ok(server) = TcpStream::connect(upstream).await {
            return Some(server);
        }
    }
    None
}

/// How a connection came to its end.
enum End {
    Closed,
    Reset,
    Stranded,
}

/// Both directions to their orderly end, or the first to fail.
async fn both(up: impl Future<Output = io::Result<()>>, down: impl Future<Output = io::Result<()>>) -> End {
    match tokio::try_join!(up, down) {
        Ok(_) => End::Closed,
        Err(_) => End::Reset,
    }
}

/// Waits until this connection is told to be reset or stranded.
async fn struck(at_start: &Faults, mut faults: watch::Receiver<Faults>) -> End {
    let changed = faults.wait_for(|now| now.resets > at_start.resets || now.strands > at_start.strands);
    match changed.await {
        Ok(now) if now.resets > at_start.resets => End::Reset,
        Ok(_) => End::Stranded,
        Err(_) => End::Closed,
    }
}

/// One direction. Reading and writing are apart, so that latency does not become bandwidth.
async fn forward(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, state: &State) -> io::Result<()> {
    let (chunks, mut queue) = mpsc::channel::<(Instant, Vec<u8>)>(256);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return Ok(());
            }
            let chunk = buffer.get(..count).unwrap_or_default().to_vec();
            if chunks.send((Instant::now(), chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let write = async {
        let mut faults = state.faults.subscribe();
        while let Some((arrived, chunk)) = queue.recv().await {
            let now = flowing(&mut faults).await;
            tokio::time::sleep_until(arrived + now.latency).await;
            let size = match now.slice {
                0 => chunk.len(),
                size => size,
            };
            for piece in chunk.chunks(size.max(1)) {
                let now = flowing(&mut faults).await;
                let allowed = spend(state, piece.len());
                to.write_all(piece.get(..allowed).unwrap_or_default()).await?;
                if allowed < piece.len() {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                if now.slice > 0 {
                    tokio::task::yield_now().await;
                }
            }
        }
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(|_| ())
}

/// Waits while nothing is to be forwarded.
async fn flowing(faults: &mut watch::Receiver<Faults>) -> Faults {
    let now = faults.wait_for(|now| !now.black_hole).await;
    now.map(|now| now.clone()).unwrap_or_default()
}

/// How many of `wanted` bytes may pass; the budget is over once it has been used up.
fn spend(state: &State, wanted: usize) -> usize {
    let mut budget = state.budget.lock().expect("the budget");
    match *budget {
        Some(left) if left < wanted => {
            *budget = None;
            left
        }
        Some(left) => {
            *budget = Some(left - wanted);
            wanted
        }
        None => wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn echo_server() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn connected() -> (Proxy, TcpStream) {
        let proxy = Proxy::start(&echo_server().await).await;
        let stream = TcpStream::connect(proxy.address).await.unwrap();
        (proxy, stream)
    }

    async fn echoes(stream: &mut TcpStream, text: &[u8]) -> io::Result<bool> {
        stream.write_all(text).await?;
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).await?;
        Ok(back == text)
    }

    async fn is_silent(stream: &mut TcpStream) -> bool {
        let mut byte = [0];
        let read = stream.read(&mut byte);
        tokio::time::timeout(Duration::from_millis(200), read).await.is_err()
    }

    #[tokio::test]
    async fn it_forwards_both_ways_whole_and_in_slices() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, b"whole").await.unwrap());
        proxy.slice(1);
        let long = vec![7; 5_000];
        assert!(echoes(&mut stream, &long).await.unwrap());
        drop(stream);
        assert_eq!(proxy.accepted(), 1);
    }

    #[tokio::test]
    async fn latency_delays_there_and_back() {
        let (proxy, mut stream) = connected().await;
        proxy.latency(Duration::from_millis(60));
        let start = Instant::now();
        assert!(echoes(&mut stream, b"slow").await.unwrap());
        assert!(start.elapsed() >= Duration::from_millis(120));
    }

    #[tokio::test]
    async fn a_black_hole_keeps_everything_until_it_heals() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, b"before").await.unwrap());
        proxy.black_hole();
        stream.write_all(b"held").await.unwrap();
        assert!(is_silent(&mut stream).await);
        proxy.heal();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"held");
    }

    #[tokio::test]
    async fn a_reset_is_a_reset_and_new_connections_work() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, b"before").await.unwrap());
        proxy.reset();
        let error = stream.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert!(echoes(&mut next, b"after").await.unwrap());
    }

    #[tokio::test]
    async fn a_cut_comes_after_exactly_so_many_bytes() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, b"x").await.unwrap());
        // Ten go up; of the ten that come back, five pass.
        proxy.cut_after(15);
        stream.write_all(b"0123456789").await.unwrap();
        let mut back = Vec::new();
        let end = stream.read_to_end(&mut back).await;
        assert!(end.is_err(), "a reset, not an orderly end");
        assert!(back.len() <= 5, "{} bytes came back", back.len());
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert!(echoes(&mut next, b"after the cut").await.unwrap());
    }

    #[tokio::test]
    async fn stranded_connections_stay_dead_while_new_ones_work() {
        let (proxy, mut stream) = connected().await;
        assert!(echoes(&mut stream, b"before").await.unwrap());
        proxy.strand();
        proxy.heal();
        stream.write_all(b"lost").await.unwrap();
        assert!(is_silent(&mut stream).await);
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert!(echoes(&mut next, b"after").await.unwrap());
    }

    #[tokio::test]
    async fn it_refuses_until_healed_and_can_switch_upstream() {
        let (proxy, _stream) = connected().await;
        proxy.refuse();
        // The reset may come while connecting or after it.
        if let Ok(mut refused) = TcpStream::connect(proxy.address).await {
            assert!(refused.read(&mut [0]).await.is_err());
        }
        proxy.heal();
        proxy.switch(&echo_server().await);
        let mut next = TcpStream::connect(proxy.address).await.unwrap();
        assert!(echoes(&mut next, b"elsewhere").await.unwrap());
    }

    #[tokio::test]
    async fn of_several_it_takes_the_first_that_is_there() {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gone = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let proxy = Proxy::before(vec![gone, echo_server().await]).await;
        let mut stream = TcpStream::connect(proxy.address).await.unwrap();
        assert!(echoes(&mut stream, b"the second").await.unwrap());
    }
}
