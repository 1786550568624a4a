//! Fingerprints and sealed bodies, under keys derived from `ROSTER_SECRET`.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use rand::TryRng;
use rand::rngs::SysRng;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use crate::application::error::{Failure, FailureKind};
use crate::application::message::Fingerprint;
use crate::application::ports::Vault;

const NONCE: usize = 24;
const MIN_SECRET: usize = 32;

/// The keys. Replicas that share a secret share them.
#[derive(Clone)]
pub struct SecretVault {
    fingerprint: Hmac<Sha256>,
    cipher: XChaCha20Poly1305,
}

impl std::fmt::Debug for SecretVault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecretVault(…)")
    }
}

impl SecretVault {
    /// # Errors
    /// Where the secret has less than 32 bytes.
    pub fn new(secret: &SecretString) -> Result<Self, Failure> {
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < MIN_SECRET {
            return Err(failure("ROSTER_SECRET must have at least 32 bytes"));
        }
        let keys = Hkdf::<Sha256>::new(None, secret);
        let key = |purpose: &[u8]| {
            let mut key = [0; 32];
            keys.expand(purpose, &mut key).map_err(|_| failure("no key can be derived")).map(|()| key)
        };
        let fingerprint = <Hmac<Sha256> as KeyInit>::new_from_slice(&key(b"fingerprint")?)
            .map_err(|_| failure("the fingerprint key does not fit"))?;
        let cipher = XChaCha20Poly1305::new(&key(b"failed command body")?.into());
        Ok(Self { fingerprint, cipher })
    }
}

impl Vault for SecretVault {
    fn fingerprint(&self, body: &[u8]) -> Fingerprint {
        self.fingerprint.clone().chain_update(body).finalize().into_bytes().into()
    }

    fn seal(&self, body: &[u8], context: &[u8]) -> Result<Vec<u8>, Failure> {
        let mut nonce = [0; NONCE];
        SysRng.try_fill_bytes(&mut nonce).map_err(|_| failure("no randomness"))?;
        let sealed = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: body, aad: context })
            .map_err(|_| failure("a body cannot be sealed"))?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    fn open(&self, sealed: &[u8], context: &[u8]) -> Result<Vec<u8>, Failure> {
        let refused = || failure("a sealed body cannot be opened: was ROSTER_SECRET changed?");
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE>().ok_or_else(refused)?;
        self.cipher
            .decrypt(&XNonce::from(*nonce), Payload { msg: sealed, aad: context })
            .map_err(|_| refused())
    }
}

fn failure(what: &str) -> Failure {
    Failure::new(FailureKind::Permanent, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vault(secret: &str) -> SecretVault {
        SecretVault::new(&SecretString::from(secret)).unwrap()
    }

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn what_was_sealed_opens_under_the_same_secret_and_context() {
        let sealed = vault(SECRET).seal(b"body", b"row").unwrap();
        assert_eq!(vault(SECRET).open(&sealed, b"row").unwrap(), b"body");
        assert!(vault(SECRET).open(&sealed, b"other").is_err());
        assert!(vault("another secret, which is long enough").open(&sealed, b"row").is_err());
        assert!(vault(SECRET).open(b"short", b"row").is_err());
        assert_ne!(sealed, vault(SECRET).seal(b"body", b"row").unwrap());
    }

    #[test]
    fn a_fingerprint_depends_on_body_and_secret_alone() {
        let fingerprint = vault(SECRET).fingerprint(b"body");
        assert_eq!(fingerprint, vault(SECRET).fingerprint(b"body"));
        assert_ne!(fingerprint, vault(SECRET).fingerprint(b"bodY"));
        assert_ne!(fingerprint, vault("another secret, which is long enough").fingerprint(b"body"));
    }

    #[test]
    fn a_short_secret_is_refused() {
        assert!(SecretVault::new(&SecretString::from("short")).is_err());
    }
}
