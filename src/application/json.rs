//! JSON as the contract wants it: one object, no duplicate keys, nothing after it.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a body is not one JSON object. Says where, never what stood there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Parses a body. Lone surrogates, which no string can hold, become U+0000: no field takes that either,
/// so the field is named in the refusal.
///
/// # Errors
/// [`Malformed`] for a byte order mark, invalid UTF-8, duplicate keys, trailing bytes, deep nesting,
/// or anything that is not an object.
pub fn object(body: &[u8]) -> Result<Map<String, Value>, Malformed> {
    let parsed = match serde_json::from_slice::<Strict>(body) {
        Err(_) if has_surrogate_escape(body) => {
            serde_json::from_slice::<Strict>(&without_lone_surrogates(body))
        }
        parsed => parsed,
    };
    match parsed {
        Ok(Strict(Value::Object(map))) => Ok(map),
        Ok(_) => Err(Malformed("the body must be a JSON object".into())),
        Err(error) => Err(Malformed(match error.classify() {
            // A data error can quote the body; the only one here is a duplicate key.
            serde_json::error::Category::Data => "the body has a duplicate key".into(),
            _ => format!("the body is not JSON at line {}, column {}", error.line(), error.column()),
        })),
    }
}

fn has_surrogate_escape(body: &[u8]) -> bool {
    body.windows(3).any(|w| matches!(w, [b'\\', b'u', b'd' | b'D']))
}

fn without_lone_surrogates(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((&byte, after)) = rest.split_first() {
        match (byte, surrogate(rest)) {
            (b'\\', Some(high)) if high < 0xdc00 => {
                let paired = rest.get(6..).and_then(surrogate).is_some_and(|low| low >= 0xdc00);
                let (kept, taken): (&[u8], usize) =
                    if paired { (rest.get(..12).unwrap_or(rest), 12) } else { (b"\\u0000", 6) };
                out.extend_from_slice(kept);
                rest = rest.get(taken..).unwrap_or_default();
            }
            (b'\\', Some(_)) => {
                out.extend_from_slice(b"\\u0000");
                rest = rest.get(6..).unwrap_or_default();
            }
            (b'\\', None) => {
                // An escape of two bytes at least: `\\` must not start the next one.
                out.extend_from_slice(rest.get(..2).unwrap_or(rest));
                rest = rest.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

/// The surrogate that an escape at the start of `text` stands for.
fn surrogate(text: &[u8]) -> Option<u32> {
    let hex = text.strip_prefix(b"\\u")?.get(..4)?;
    let value = u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?;
    (0xd800..0xe000).contains(&value).then_some(value)
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some((key, Strict(value))) = access.next_entry::<String, Strict>()? {
            if map.insert(key, value).is_some() {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::bom(b"\xef\xbb\xbf{}")]
    #[case::trailing(b"{} x")]
    #[case::two(b"{}{}")]
    #[case::duplicate(br#"{"a":1,"a":2}"#)]
    #[case::nested_duplicate(br#"{"b":{"a":1,"a":2}}"#)]
    #[case::utf8(b"{\"a\":\"\xff\"}")]
    #[case::array(b"[]")]
    #[case::empty(b"")]
    #[case::cut(br#"{"a":"#)]
    fn what_is_not_one_object_is_malformed(#[case] body: &[u8]) {
        assert!(object(body).is_err());
    }

    #[test]
    fn depth_is_bounded() {
        let deep = [vec![b'['; 10_000], vec![b']'; 10_000]].concat();
        assert!(object(&[b"{\"a\":".as_slice(), &deep, b"}"].concat()).is_err());
    }

    #[test]
    fn a_malformed_body_is_not_quoted() {
        let Malformed(message) = object(br#"{"password":"hunter22","password":"x"}"#).unwrap_err();
        assert!(!message.contains("hunter22"));
    }

    #[rstest]
    #[case::high(r#"{"a":"x\ud800y"}"#, "x\0y")]
    #[case::low(r#"{"a":"\udc00"}"#, "\0")]
    #[case::two_highs(r#"{"a":"\ud800\ud800"}"#, "\0\0")]
    #[case::pair_beside_a_lone_one(r#"{"a":"\ud83d\ude00\ud800"}"#, "😀\0")]
    #[case::escaped_backslash(r#"{"a":"\\ud800\udc00"}"#, "\\ud800\0")]
    fn a_lone_surrogate_becomes_u0000(#[case] body: &str, #[case] expected: &str) {
        assert_eq!(object(body.as_bytes()).unwrap()["a"], expected);
    }
}
