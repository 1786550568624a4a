//! Settings that hold credentials: kept out of `Debug`, `Display`, `--help` and error messages.

use std::ffi::OsStr;
use std::fmt;

use clap::builder::{StringValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command, Error};
use secrecy::{ExposeSecret, SecretString};

/// `ROSTER_SECRET`: at least [`Secret::MIN_BYTES`].
#[derive(Debug, Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub const MIN_BYTES: usize = 32;

    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    #[must_use]
    pub const fn as_secret(&self) -> &SecretString {
        &self.0
    }
}

/// A server's URL. `Display` and `Debug` show it without user, password and query.
#[derive(Clone)]
pub struct ServerUrl(SecretString);

impl ServerUrl {
    /// With its credentials, for the connection alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    #[must_use]
    pub const fn as_secret(&self) -> &SecretString {
        &self.0
    }
}

impl From<String> for ServerUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((scheme, rest)) = self.expose().split_once("://") else { return f.write_str("***") };
        let rest = rest.split(['?', '#']).next().unwrap_or_default();
        // Up to the last '@': an unescaped '/' or '@' in a password must not show it.
        let shown = rest.rsplit_once('@').map_or(rest, |(_, shown)| shown);
        // A '?' or '#' in a password would have cut the '@' off.
        let cut = self.expose().contains('@') && !rest.contains('@');
        write!(f, "{scheme}://{}", if cut { "***" } else { shown })
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Checks a URL's scheme. A parser of its own, because clap's errors repeat the value.
#[derive(Debug, Clone, Copy)]
pub struct UrlParser(&'static [&'static str]);

impl UrlParser {
    pub const POSTGRES: Self = Self(&["postgres://", "postgresql://"]);
    pub const AMQP: Self = Self(&["amqp://", "amqps://"]);
}

impl TypedValueParser for UrlParser {
    type Value = ServerUrl;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<ServerUrl, Error> {
        let url = StringValueParser::new().parse_ref(cmd, arg, value)?;
        if self.0.iter().any(|scheme| url.starts_with(scheme)) {
            return Ok(url.into());
        }
        Err(refuse(cmd, arg, &format!("must start with {}", self.0.join(" or "))))
    }
}

/// Checks the secret's length.
#[derive(Debug, Clone, Copy)]
pub struct SecretParser;

impl TypedValueParser for SecretParser {
    type Value = Secret;

    fn parse_ref(&self, cmd: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Secret, Error> {
        let text = StringValueParser::new().parse_ref(cmd, arg, value)?;
        if text.len() >= Secret::MIN_BYTES {
            return Ok(Secret(text.into()));
        }
        let what = format!(
            "must have at least {} bytes, not {}; to make one: openssl rand -base64 32",
            Secret::MIN_BYTES,
            text.len()
        );
        Err(refuse(cmd, arg, &what))
    }
}

fn refuse(cmd: &Command, arg: Option<&Arg>, what: &str) -> Error {
    let name = arg.map(ToString::to_string).unwrap_or_default();
    let variable = arg.and_then(Arg::get_env).and_then(OsStr::to_str).unwrap_or_default();
    Error::raw(ErrorKind::ValueValidation, format!("{name} ({variable}) {what}\n")).with_cmd(cmd)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("amqp://guest:guest@127.0.0.1:5672", "amqp://127.0.0.1:5672")]
    #[case("amqp://127.0.0.1", "amqp://127.0.0.1")]
    #[case("postgres://a:p@ss/w@db:5432/roster", "postgres://db:5432/roster")]
    #[case("postgres://a:p?ss@db/roster", "postgres://***")]
    #[case("postgres:///roster?host=/run&password=p", "postgres:///roster")]
    fn a_url_is_shown_without_credentials(#[case] url: &str, #[case] shown: &str) {
        assert_eq!(ServerUrl::from(url.to_owned()).to_string(), shown);
    }
}
