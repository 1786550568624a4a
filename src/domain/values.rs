//! Value objects: what cannot be built cannot be wrong.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not the value it was meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidValue {
    #[error("must have at least {0} characters")]
    TooShort(usize),
    #[error("must have at most {0} characters")]
    TooLong(usize),
    #[error("must be an e-mail address")]
    NotAnEmail,
    #[error("must not contain control characters")]
    ControlCharacter,
    #[error("must be one of: {0}")]
    NotOneOf(&'static str),
}

/// An e-mail address as HTML's `<input type=email>` has it: ASCII, at most 254 bytes, trimmed, lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(String);

impl Email {
    pub const MAX_BYTES: usize = 254;

    /// # Errors
    /// [`InvalidValue::ControlCharacter`], [`InvalidValue::TooLong`] or [`InvalidValue::NotAnEmail`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        refuse_control_characters(text)?;
        let text = text.trim();
        if text.len() > Self::MAX_BYTES {
            return Err(InvalidValue::TooLong(Self::MAX_BYTES));
        }
        let (local, domain) = text.split_once('@').ok_or(InvalidValue::NotAnEmail)?;
        let local_fits = !local.is_empty()
            && local.bytes().all(|b| b.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&b));
        if !local_fits || !domain.split('.').all(is_host_label) {
            return Err(InvalidValue::NotAnEmail);
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_host_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// What a person is called: 2 to 100 Unicode code points, trimmed, without control characters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(String);

impl UserName {
    pub const MIN_CHARACTERS: usize = 2;
    pub const MAX_CHARACTERS: usize = 100;

    /// # Errors
    /// [`InvalidValue::ControlCharacter`], [`InvalidValue::TooShort`] or [`InvalidValue::TooLong`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        refuse_control_characters(text)?;
        let text = text.trim();
        match text.chars().count() {
            n if n < Self::MIN_CHARACTERS => Err(InvalidValue::TooShort(Self::MIN_CHARACTERS)),
            n if n > Self::MAX_CHARACTERS => Err(InvalidValue::TooLong(Self::MAX_CHARACTERS)),
            _ => Ok(Self(text.to_owned())),
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn refuse_control_characters(text: &str) -> Result<(), InvalidValue> {
    if text.chars().any(char::is_control) { Err(InvalidValue::ControlCharacter) } else { Ok(()) }
}

/// What a user may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    #[default]
    User,
    Admin,
}

impl Role {
    /// # Errors
    /// [`InvalidValue::NotOneOf`].
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        match text {
            "user" => Ok(Self::User),
            "admin" => Ok(Self::Admin),
            _ => Err(InvalidValue::NotOneOf("user, admin")),
        }
    }

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// A password's hash in PHC string format. It never shows itself.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    #[must_use]
    pub const fn new(phc: String) -> Self {
        Self(phc)
    }

    /// The PHC string, for the database and the verifier alone.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

impl TryFrom<String> for Email {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl FromStr for Email {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse(text)
    }
}

impl From<Email> for String {
    fn from(email: Email) -> Self {
        email.0
    }
}

impl TryFrom<String> for UserName {
    type Error = InvalidValue;
    fn try_from(text: String) -> Result<Self, InvalidValue> {
        Self::parse(&text)
    }
}

impl FromStr for UserName {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse(text)
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0
    }
}

impl FromStr for Role {
    type Err = InvalidValue;
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::plain("ada@example.com", Ok("ada@example.com"))]
    #[case::trimmed_and_lowered("  Ada@Example.COM ", Ok("ada@example.com"))]
    #[case::no_dot_needed("ada@localhost", Ok("ada@localhost"))]
    #[case::plus("a+b@x.io", Ok("a+b@x.io"))]
    #[case::no_at("ada.example.com", Err(InvalidValue::NotAnEmail))]
    #[case::no_local("@example.com", Err(InvalidValue::NotAnEmail))]
    #[case::two_ats("a@b@c", Err(InvalidValue::NotAnEmail))]
    #[case::hyphen_first("a@-b.c", Err(InvalidValue::NotAnEmail))]
    #[case::empty_label("a@b..c", Err(InvalidValue::NotAnEmail))]
    #[case::not_ascii("é@example.com", Err(InvalidValue::NotAnEmail))]
    #[case::inner_space("a b@example.com", Err(InvalidValue::NotAnEmail))]
    #[case::control("a\u{0}@example.com", Err(InvalidValue::ControlCharacter))]
    fn an_email_follows_the_html_standard(#[case] text: &str, #[case] expected: Result<&str, InvalidValue>) {
        assert_eq!(Email::parse(text).as_ref().map(Email::as_str), expected.as_ref().copied());
    }

    #[test]
    fn an_email_has_at_most_254_bytes() {
        let fits =
            format!("{}@{}.{}.{}.example", "a".repeat(54), "b".repeat(63), "c".repeat(63), "d".repeat(63));
        assert_eq!(fits.len(), 254);
        assert!(Email::parse(&fits).is_ok());
        assert_eq!(Email::parse(&format!("a{fits}")), Err(InvalidValue::TooLong(254)));
    }

    #[rstest]
    #[case("Ada", Ok("Ada"))]
    #[case(" Ada Lovelace ", Ok("Ada Lovelace"))]
    #[case(" A ", Err(InvalidValue::TooShort(2)))]
    #[case("日本", Ok("日本"))]
    #[case("a\u{7f}b", Err(InvalidValue::ControlCharacter))]
    fn a_name_counts_code_points(#[case] text: &str, #[case] expected: Result<&str, InvalidValue>) {
        assert_eq!(UserName::parse(text).as_ref().map(UserName::as_str), expected.as_ref().copied());
    }

    #[test]
    fn a_name_has_at_most_100_characters() {
        assert!(UserName::parse(&"é".repeat(100)).is_ok());
        assert_eq!(UserName::parse(&"é".repeat(101)), Err(InvalidValue::TooLong(100)));
    }

    #[test]
    fn a_hash_does_not_show_itself() {
        assert!(!format!("{:?}", PasswordHash::new("$argon2id$secret".into())).contains("secret"));
    }
}
