//! Reads a payload's fields and collects everything that is wrong with them, in one pass.

use std::borrow::Cow;

use secrecy::SecretString;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::domain::{Email, Id, InvalidValue, Role, UserName};

use super::error::{Detail, Reason};
use super::password::Password;

/// Text that is not echoed: longer names of unknown fields are cut.
const MAX_FIELD_NAME: usize = 64;

/// A payload being read. Every reader notes what is wrong and returns `None`; [`Fields::finish`] names what
/// nobody asked for and gives the list.
#[derive(Debug)]
pub struct Fields {
    left: Map<String, Value>,
    details: Vec<Detail>,
}

impl Fields {
    #[must_use]
    pub const fn new(object: Map<String, Value>) -> Self {
        Self { left: object, details: Vec::new() }
    }

    /// Notes something wrong about a field.
    pub fn refuse(&mut self, field: &'static str, reason: Reason, message: impl Into<Cow<'static, str>>) {
        self.details.push(Detail::new(field, reason, message));
    }

    /// The payload, if nothing was wrong with it and no unknown field is left.
    ///
    /// # Errors
    /// Everything that is wrong, field by field.
    pub fn finish<T>(mut self, payload: Option<T>) -> Result<T, Vec<Detail>> {
        for name in self.left.keys() {
            let shown: String = name.chars().filter(|c| !c.is_control()).take(MAX_FIELD_NAME).collect();
            self.details.push(Detail::new(shown, Reason::UnknownField, "no such field"));
        }
        match payload {
            Some(payload) if self.details.is_empty() => Ok(payload),
            _ => Err(self.details),
        }
    }

    /// A field that may be absent; `null` counts as absent.
    /// `Ok(None)` is absent, `Err(())` is there and wrong (noted).
    fn optional<T>(
        &mut self,
        field: &'static str,
        parse: impl FnOnce(Value) -> Result<T, (Reason, Cow<'static, str>)>,
    ) -> Result<Option<T>, Noted> {
        match self.left.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match parse(value) {
                Ok(parsed) => Ok(Some(parsed)),
                Err((reason, message)) => {
                    self.refuse(field, reason, message);
                    Err(Noted)
                }
            },
        }
    }

    /// Turns an optional field into a required one.
    pub fn required<T>(&mut self, field: &'static str, read: Optional<T>) -> Option<T> {
        match read {
            Ok(Some(value)) => Some(value),
            Ok(None) => {
                self.refuse(field, Reason::Missing, "is required");
                None
            }
            Err(Noted) => None,
        }
    }

    pub fn email(&mut self, field: &'static str) -> Optional<Email> {
        self.optional(field, |value| text(value).and_then(|text| Email::parse(&text).map_err(invalid)))
    }

    pub fn name(&mut self, field: &'static str) -> Optional<UserName> {
        self.optional(field, |value| text(value).and_then(|text| UserName::parse(&text).map_err(invalid)))
    }

    pub fn role(&mut self, field: &'static str) -> Optional<Role> {
        self.optional(field, |value| text(value).and_then(|text| Role::parse(&text).map_err(invalid)))
    }

    /// A password: 8 to 1024 bytes with `strict`, else at most 1024; any character but U+0000.
    pub fn password(&mut self, field: &'static str, strict: bool) -> Optional<Password> {
        self.optional(field, |value| {
            let text = text(value)?;
            match text.len() {
                _ if text.contains('\0') => Err((Reason::InvalidValue, "must not contain U+0000".into())),
                n if strict && n < 8 => Err((Reason::TooShort, "must have at least 8 bytes".into())),
                n if n > 1024 => Err((Reason::TooLong, "must have at most 1024 bytes".into())),
                _ => Ok(Password::from(SecretString::from(text))),
            }
        })
    }

    pub fn uuid(&mut self, field: &'static str) -> Optional<Uuid> {
        self.optional(field, |value| {
            // The hyphenated form alone, so that one id has one spelling.
            let text = text(value)?;
            Some(text.as_str())
                .filter(|text| text.len() == 36)
                .and_then(|text| Uuid::try_parse(text).ok())
                .ok_or((Reason::InvalidUuid, "must be a UUID".into()))
        })
    }

    pub fn id<T>(&mut self, field: &'static str) -> Optional<Id<T>> {
        self.uuid(field).map(|found| found.map(Id::new))
    }

    /// A whole number within `range`.
    pub fn integer(&mut self, field: &'static str, range: std::ops::RangeInclusive<i64>) -> Optional<i64> {
        self.optional(field, |value| match value.as_i64() {
            Some(number) if range.contains(&number) => Ok(number),
            Some(_) => Err((
                Reason::InvalidValue,
                if *range.end() == i64::MAX {
                    format!("must be at least {}", range.start()).into()
                } else {
                    format!("must be from {} to {}", range.start(), range.end()).into()
                },
            )),
            None => Err((Reason::InvalidValue, "must be a whole number".into())),
        })
    }

    pub fn boolean(&mut self, field: &'static str) -> Optional<bool> {
        self.optional(field, |value| {
            value.as_bool().ok_or((Reason::InvalidValue, "must be true or false".into()))
        })
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, field: &'static str, words: &[(&'static str, T)]) -> Optional<T> {
        self.optional(field, |value| {
            let text = text(value)?;
            words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning).ok_or_else(|| {
                let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                (Reason::InvalidValue, format!("must be one of: {}", all.join(", ")).into())
            })
        })
    }

    /// Text as it is, without control characters, its length in code points.
    pub fn text(
        &mut self,
        field: &'static str,
        lengths: std::ops::RangeInclusive<usize>,
    ) -> Optional<String> {
        self.optional(field, |value| {
            let text = text(value)?;
            if text.chars().any(char::is_control) {
                return Err(invalid(InvalidValue::ControlCharacter));
            }
            match text.chars().count() {
                n if n < *lengths.start() => Err(invalid(InvalidValue::TooShort(*lengths.start()))),
                n if n > *lengths.end() => Err(invalid(InvalidValue::TooLong(*lengths.end()))),
                _ => Ok(text),
            }
        })
    }
}

/// A field that is there, absent, or wrong and noted.
pub type Optional<T> = Result<Option<T>, Noted>;

/// The field was wrong; what is wrong has been noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Noted;

fn text(value: Value) -> Result<String, (Reason, Cow<'static, str>)> {
    match value {
        Value::String(text) => Ok(text),
        _ => Err((Reason::InvalidValue, "must be a string".into())),
    }
}

fn invalid(error: InvalidValue) -> (Reason, Cow<'static, str>) {
    (error.into(), error.to_string().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(map) = value else { unreachable!("tests give objects") };
        Fields::new(map)
    }

    #[test]
    fn everything_wrong_is_told_at_once_and_no_value_is_echoed() {
        let mut read = fields(json!({"email": "nonsense", "password": "s3cr3t7", "nick": "zed"}));
        let email = read.email("email");
        assert_eq!(email, Err(Noted));
        let name = read.name("name");
        assert_eq!(read.required("name", name), None);
        assert!(read.password("password", true).is_err());
        let details = read.finish(Some(())).unwrap_err();
        let told: Vec<_> =
            details.iter().map(|detail| (detail.field.as_deref().unwrap(), detail.reason)).collect();
        assert_eq!(
            told,
            [
                ("email", Reason::InvalidEmail),
                ("name", Reason::Missing),
                ("password", Reason::TooShort),
                ("nick", Reason::UnknownField)
            ]
        );
        let shown = serde_json::to_string(&details).unwrap();
        assert!(!shown.contains("nonsense") && !shown.contains("s3cr3t7") && !shown.contains("zed"));
    }

    #[test]
    fn a_uuid_has_one_spelling() {
        let mut read = fields(json!({"id": "0198a0b1c2d37e4f8a9bacbdcedfe0f1"}));
        assert_eq!(read.uuid("id"), Err(Noted));
    }

    #[test]
    fn numbers_are_whole_and_within_range() {
        let mut read = fields(json!({"a": 1.5, "b": 0, "c": 7, "d": "7"}));
        assert_eq!(read.integer("a", 1..=9), Err(Noted));
        assert_eq!(read.integer("b", 1..=9), Err(Noted));
        assert_eq!(read.integer("c", 1..=9), Ok(Some(7)));
        assert_eq!(read.integer("d", 1..=9), Err(Noted));
    }
}
