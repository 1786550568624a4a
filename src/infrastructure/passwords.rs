//! Password hashes: argon2id, on as many blocking threads as there are cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use argon2::password_hash::phc::{Output, PasswordHash as Phc, Salt};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use metrics::{counter, histogram};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::application::error::{Failure, FailureKind};
use crate::application::password::Password;
use crate::application::ports::{Passwords, Pending};
use crate::domain::PasswordHash;

/// How long a hash's memory is kept for the next one: mapping it anew costs 15 %.
const WARM: Duration = Duration::from_secs(1);

/// For so long after a query one core is left to it, and to the servers beside it.
const QUIET: Duration = Duration::from_millis(500);

/// How far threads that hash stand back (`nice`): queries and commands that wait for a core go first.
const STAND_BACK: i32 = 10;

/// argon2id with m = 19 MiB, t = 2, p = 1.
#[derive(Debug)]
pub struct Argon2Passwords {
    turns: Arc<Turns>,
    memory: Arc<Memory>,
}

impl Default for Argon2Passwords {
    fn default() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, std::num::NonZero::get))
    }
}

impl Argon2Passwords {
    /// At most `threads` hashes at a time; the others wait in the order they came.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { turns: Arc::new(Turns::new(threads)), memory: Arc::default() }
    }

    /// A hash that nobody began to wait for is not computed; one that was begun is finished.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Memory) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let asked = Instant::now();
        let gone = |_| failure("the password threads have ended");
        let turn = Turns::take(&self.turns).await?;
        let memory = Arc::clone(&self.memory);
        let result = tokio::task::spawn_blocking(move || {
            if cfg!(target_os = "linux") {
                // Of this thread alone, there. Where the system will not, it hashes as eagerly as before.
                let _ = rustix::process::setpriority_process(None, STAND_BACK);
            }
            let result = work(&memory);
            drop(turn);
            result
        })
        .await
        .map_err(gone)?;
        counter!(crate::metrics::PASSWORD_HASHES).increment(1);
        histogram!(crate::metrics::PASSWORD_HASH_SECONDS).record(asked.elapsed());
        if self.memory.warms_up() {
            let memory = Arc::clone(&self.memory);
            tokio::spawn(async move {
                while memory.cool_down() {
                    tokio::time::sleep(WARM).await;
                }
            });
        }
        result
    }
}

impl Passwords for Argon2Passwords {
    fn hash<'a>(&'a self, password: &'a Password) -> Pending<'a, Result<PasswordHash, Failure>> {
        let password = password.clone();
        Box::pin(self.run(move |memory| hash(&password, memory)))
    }

    fn verify<'a>(
        &'a self,
        password: &'a Password,
        hash: &'a PasswordHash,
    ) -> Pending<'a, Result<bool, Failure>> {
        let (password, hash) = (password.clone(), hash.clone());
        Box::pin(self.run(move |memory| verify(&password, &hash, memory)))
    }

    fn make_way(&self) {
        self.turns.make_way();
    }
}

fn hash(password: &Password, memory: &Memory) -> Result<PasswordHash, Failure> {
    let salt = Salt::generate();
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    compute(&Params::DEFAULT, password, &salt, &mut output, memory)?;
    let phc = Phc {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: Params::DEFAULT.try_into().map_err(|_| failure("the parameters do not fit"))?,
        salt: Some(salt),
        hash: Some(Output::new(&output).map_err(|_| failure("the hash does not fit"))?),
    };
    Ok(PasswordHash::new(phc.to_string()))
}

/// With the parameters of the hash, which may be older than ours.
fn verify(password: &Password, hash: &PasswordHash, memory: &Memory) -> Result<bool, Failure> {
    let unfit = || failure("a stored password hash cannot be read");
    let phc = Phc::new(hash.expose()).map_err(|_| unfit())?;
    let (ARGON2ID_IDENT, Some(salt), Some(expected)) = (phc.algorithm, &phc.salt, &phc.hash) else {
        return Err(failure("a stored password hash is of another kind"));
    };
    let params = Params::try_from(&phc).map_err(|_| unfit())?;
    let mut output = vec![0; expected.len()];
    compute(&params, password, salt, &mut output, memory)?;
    // Compares in constant time.
    Ok(Output::new(&output).is_ok_and(|output| output == *expected))
}

fn compute(
    params: &Params,
    password: &Password,
    salt: &Salt,
    output: &mut [u8],
    memory: &Memory,
) -> Result<(), Failure> {
    let mut blocks = memory.take(params.block_count());
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone());
    let result =
        argon2.hash_password_into_with_memory(password.expose().as_bytes(), salt, output, &mut blocks);
    memory.give_back(blocks);
    result.map_err(|_| failure("a password cannot be hashed"))
}

/// Who may hash: as many at a time as there are cores, one fewer while queries come in. A hash runs for some 20 ms, and
/// a query passes through several processes, each of which would wait for a core.
#[derive(Debug)]
struct Turns {
    free: Arc<Semaphore>,
    threads: usize,
    begun: Instant,
    /// When the last query came, in ms from `begun`; 0 before the first.
    asked: AtomicU64,
    /// One turn is kept back.
    spared: AtomicBool,
}

impl Turns {
    fn new(threads: usize) -> Self {
        let (begun, asked) = (Instant::now(), AtomicU64::new(0));
        Self {
            free: Arc::new(Semaphore::new(threads)),
            threads,
            begun,
            asked,
            spared: AtomicBool::new(false),
        }
    }

    async fn take(this: &Arc<Self>) -> Result<Turn, Failure> {
        let permit = Arc::clone(&this.free).acquire_owned().await.map_err(|_| failure("no more turns"))?;
        Ok(Turn { permit: Some(permit), turns: Arc::clone(this) })
    }

    fn make_way(&self) {
        self.asked.store(self.now(), Ordering::Relaxed);
    }

    /// In ms from `begun`, and never 0, which stands for no query at all.
    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// For how long queries are still to be let through; zero if not at all.
    fn busy_for(&self) -> Duration {
        match self.asked.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            asked => QUIET.saturating_sub(Duration::from_millis(self.now().saturating_sub(asked))),
        }
    }
}

/// The right to hash, until it is dropped.
struct Turn {
    permit: Option<OwnedSemaphorePermit>,
    turns: Arc<Turns>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (Some(permit), turns) = (self.permit.take(), Arc::clone(&self.turns)) else { return };
        if turns.threads < 2 || turns.busy_for().is_zero() || turns.spared.swap(true, Ordering::AcqRel) {
            return;
        }
        // Outside a runtime there are no queries.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            loop {
                match turns.busy_for() {
                    Duration::ZERO => break,
                    wait => tokio::time::sleep(wait).await,
                }
            }
            turns.spared.store(false, Ordering::Release);
            drop(permit);
        });
    }
}

/// The working memory of hashes, kept from one to the next while they follow each other closely.
#[derive(Debug, Default)]
struct Memory(Mutex<Free>);

#[derive(Default)]
struct Free {
    blocks: Vec<(Instant, Vec<Block>)>,
    /// Somebody sees to it that they are let go of.
    cooling: bool,
}

impl std::fmt::Debug for Free {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Free({})", self.blocks.len())
    }
}

impl Memory {
    fn take(&self, count: usize) -> Vec<Block> {
        let mut blocks = self.0.lock().blocks.pop().map(|(_, blocks)| blocks).unwrap_or_default();
        blocks.resize(count, Block::default());
        blocks
    }

    fn give_back(&self, blocks: Vec<Block>) {
        self.0.lock().blocks.push((Instant::now(), blocks));
    }

    /// Whether the caller is to start cooling.
    fn warms_up(&self) -> bool {
        let mut free = self.0.lock();
        !std::mem::replace(&mut free.cooling, true)
    }

    /// Lets go of what was not used for a while; whether any is left.
    fn cool_down(&self) -> bool {
        let mut free = self.0.lock();
        free.blocks.retain(|(since, _)| since.elapsed() < WARM);
        free.cooling = !free.blocks.is_empty();
        free.cooling
    }
}

fn failure(what: &str) -> Failure {
    Failure::new(FailureKind::Permanent, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_hash_alone() {
        let passwords = Argon2Passwords::new(1);
        let hash = passwords.hash(&"correct horse".into()).await.unwrap();
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(passwords.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(!passwords.verify(&"wrong horse".into(), &hash).await.unwrap());
        assert_ne!(hash, passwords.hash(&"correct horse".into()).await.unwrap());
    }

    async fn all(turns: &Arc<Turns>) -> Vec<Turn> {
        let mut taken = Vec::new();
        for _ in 0..turns.threads {
            taken.push(Turns::take(turns).await.unwrap());
        }
        taken
    }

    #[tokio::test]
    async fn a_turn_is_kept_back_while_queries_come_and_given_back_after_them() {
        let turns = Arc::new(Turns::new(3));
        drop(all(&turns).await);
        assert_eq!(turns.free.available_permits(), 3, "nobody asked");
        turns.make_way();
        drop(all(&turns).await);
        assert_eq!(turns.free.available_permits(), 2);
        // Only once nobody has asked for a while.
        assert_eq!(all(&turns).await.len(), 3);
        assert!(turns.busy_for().is_zero());
    }

    #[tokio::test]
    async fn the_only_turn_is_never_kept_back() {
        let turns = Arc::new(Turns::new(1));
        turns.make_way();
        drop(all(&turns).await);
        assert_eq!(turns.free.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_hash_with_other_parameters_is_still_verified() {
        use argon2::PasswordHasher;
        let params = Params::new(64, 1, 1, Some(16)).unwrap();
        let other = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let hash = PasswordHash::new(other.hash_password(b"correct horse").unwrap().to_string());
        let passwords = Argon2Passwords::new(1);
        assert!(passwords.verify(&"correct horse".into(), &hash).await.unwrap());
        assert!(passwords.verify(&"correct horse".into(), &PasswordHash::new("x".into())).await.is_err());
    }
}
