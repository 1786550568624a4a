//! The kinds of value that settings have, and what is wrong with those that do not fit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedI64ValueParser;
use tracing_subscriber::EnvFilter;

use crate::application::actor::Grant;
use crate::application::judge::ReplyPatterns;

/// What the name of every object on the broker starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace(String);

impl Namespace {
    const MAX: usize = 100;

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Namespace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty() || text.len() > Self::MAX || !text.bytes().all(fits) {
            return Err(format!("must be 1 to {} letters, digits, '.', '_' or '-'", Self::MAX));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Broker users that are known services, and what each may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KnownServices(pub Vec<(String, Grant)>);

impl FromStr for KnownServices {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut known: Vec<(String, Grant)> = Vec::new();
        for entry in items(text) {
            let (name, grant) = entry
                .rsplit_once('=')
                .ok_or_else(|| format!("'{entry}' must be name=reader or name=admin"))?;
            let (name, grant) = (name.trim(), grant.trim());
            let grant = match grant {
                "reader" => Grant::Reader,
                "admin" => Grant::Admin,
                _ => return Err(format!("'{grant}' is no grant: '{name}' can be =reader or =admin")),
            };
            if name.is_empty() || name.len() > 255 {
                return Err(format!("'{entry}' needs a name of 1 to 255 bytes before the '='"));
            }
            if known.iter().any(|(other, _)| other == name) {
                return Err(format!("'{name}' is listed twice"));
            }
            known.push((name.to_owned(), grant));
        }
        Ok(Self(known))
    }
}

/// Where the HTTP endpoints are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAddress {
    Off,
    /// `host:port`, resolved when it is bound.
    At(String),
}

impl FromStr for HttpAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.rsplit_once(':') {
            None if text == "off" => Ok(Self::Off),
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self::At(text.to_owned()))
            }
            _ => Err("must be host:port, such as 127.0.0.1:9464 or [::1]:0, or off".to_owned()),
        }
    }
}

/// How long after each failure a command is tried again. After the last it is given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryDelays(pub Vec<Duration>);

impl RetryDelays {
    const MOST: usize = 20;
    const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);
}

impl FromStr for RetryDelays {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let delays: Vec<_> = items(text).map(duration).collect::<Result<_, _>>()?;
        if delays.is_empty() || delays.len() > Self::MOST || delays.iter().any(|d| *d > Self::LONGEST) {
            return Err(format!("must be 1 to {} durations of at most 7 days, as 1s,10s,1m", Self::MOST));
        }
        Ok(Self(delays))
    }
}

/// At most an hour: whoever stops the service waits for it.
pub(super) fn grace(text: &str) -> Result<Duration, String> {
    duration(text).and_then(|grace| {
        if grace <= Duration::from_secs(3600) { Ok(grace) } else { Err("must be at most 1h".to_owned()) }
    })
}

pub(super) fn reply_patterns(text: &str) -> Result<ReplyPatterns, String> {
    let patterns: Vec<String> = items(text).map(str::to_owned).collect();
    match patterns.iter().find(|pattern| pattern.len() > 255) {
        Some(pattern) => Err(format!("'{pattern}' is longer than a queue's name can be (255 bytes)")),
        None => Ok(ReplyPatterns(patterns)),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    EnvFilter::try_new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

/// A whole number from `least` to `most`.
pub(super) fn bounded(least: u32, most: u32) -> RangedI64ValueParser<u32> {
    RangedI64ValueParser::new().range(i64::from(least)..=i64::from(most))
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("'{text}' is no duration such as 500ms, 30s or 2m: {error}"))
}

/// Comma-separated items; spaces around them and empty ones do not count.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// The IPv6 address in a URL with one in brackets, which lapin's reader of URLs takes for no host at all, and so for
/// `localhost`.
#[must_use]
pub fn ipv6_host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let address = host.strip_prefix('[')?.split(']').next()?;
    address.parse::<std::net::Ipv6Addr>().ok().map(|_| address)
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("", Ok(vec![]))]
    #[case("guest=admin", Ok(vec![("guest", Grant::Admin)]))]
    #[case(" a=b=reader , c = admin,", Ok(vec![("a=b", Grant::Reader), ("c", Grant::Admin)]))]
    #[case("guest", Err("must be name=reader or name=admin"))]
    #[case("guest=root", Err("'root' is no grant"))]
    #[case("=admin", Err("needs a name"))]
    #[case("a=admin,a=reader", Err("listed twice"))]
    fn services_are_names_and_grants(#[case] text: &str, #[case] expected: Result<Vec<(&str, Grant)>, &str>) {
        match (text.parse::<KnownServices>(), expected) {
            (Ok(known), Ok(expected)) => {
                let known: Vec<_> = known.0.iter().map(|(name, grant)| (name.as_str(), *grant)).collect();
                assert_eq!(known, expected);
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, _) => panic!("{text}: {found:?}"),
        }
    }

    #[rstest]
    #[case("roster", true)]
    #[case("roster-test.1_x", true)]
    #[case("", false)]
    #[case("a b", false)]
    #[case("a#", false)]
    fn a_namespace_fits_every_name_and_pattern(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(text.parse::<Namespace>().is_ok(), fits);
        assert!("x".repeat(101).parse::<Namespace>().is_err());
    }

    #[rstest]
    #[case("off", true)]
    #[case("127.0.0.1:0", true)]
    #[case("[::1]:9464", true)]
    #[case("localhost", false)]
    #[case(":80", false)]
    #[case("host:99999", false)]
    fn an_http_address_has_a_port_or_is_off(#[case] text: &str, #[case] fits: bool) {
        assert_eq!(text.parse::<HttpAddress>().is_ok(), fits);
    }

    #[test]
    fn retry_delays_are_durations() {
        let delays: RetryDelays = "1s, 10m".parse().unwrap();
        assert_eq!(delays.0, [Duration::from_secs(1), Duration::from_secs(600)]);
        for wrong in ["", "soon", "1s,8d"] {
            assert!(wrong.parse::<RetryDelays>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_unreadable_log_filter_is_refused() {
        assert!(log_filter("info,sqlx=debug").is_ok());
        assert!(log_filter("roster=loud").is_err());
    }

    #[rstest]
    #[case("amqp://u:p@[fd00::5]:5672/%2f", Some("fd00::5"))]
    #[case("amqps://[::1]", Some("::1"))]
    #[case("amqp://u:p%40[x]@host:5672", None)]
    #[case("amqp://127.0.0.1:5672/[::1]", None)]
    #[case("amqp://[host]:5672", None)]
    fn an_ipv6_host_is_found(#[case] url: &str, #[case] expected: Option<&str>) {
        assert_eq!(ipv6_host(url), expected);
    }
}
