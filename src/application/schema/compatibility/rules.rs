//! Walks two schemas side by side. A request's schema may only grow wider, an answer's only narrower; beyond
//! that, a value once listed stays listed.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{Break, Change, Direction};

/// Limits below which, or above which, a value is refused.
const LEAST: &[&str] = &["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
const MOST: &[&str] = &["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];
const EXACT: &[&str] = &["pattern", "format", "multipleOf", "uniqueItems"];
/// How deep types may refer to each other.
const DEEPEST: usize = 32;

pub(super) struct Comparison<'a> {
    direction: Direction,
    old: &'a Value,
    new: &'a Value,
    /// The pairs that are being compared, from the outermost inwards.
    inside: Vec<(String, String)>,
    found: Vec<(String, Change)>,
}

impl<'a> Comparison<'a> {
    pub(super) const fn new(direction: Direction, old: &'a Value, new: &'a Value) -> Self {
        Self { direction, old, new, inside: Vec::new(), found: Vec::new() }
    }

    pub(super) fn into_breaks(self, path: &str) -> Vec<Break> {
        self.found.into_iter().map(|(at, change)| Break { at: format!("{path}#{at}"), change }).collect()
    }

    fn note(&mut self, at: &str, change: Change) {
        let found = (at.to_owned(), change);
        if !self.found.contains(&found) {
            self.found.push(found);
        }
    }

    /// One place of both schemas, with its alternatives.
    pub(super) fn node(&mut self, old: &Value, new: &Value, at: &str) {
        // A type that refers to itself is the same again below.
        let pair = (old.to_string(), new.to_string());
        if self.inside.len() > DEEPEST || self.inside.contains(&pair) {
            return;
        }
        self.inside.push(pair);
        let (before, now) = (alternatives(old, self.old), alternatives(new, self.new));
        let (listed, listed_now) = (listed(&before), listed(&now));
        for value in listed.difference(&listed_now) {
            self.note(at, Change::ValueRemoved(value.clone()));
        }
        match self.direction {
            Direction::Request => {
                for (n, one) in before.iter().enumerate() {
                    self.covered(n, now.iter().map(|other| (one, other)), at);
                }
            }
            Direction::Answer => {
                for (n, one) in now.iter().enumerate() {
                    self.covered(n, before.iter().map(|other| (other, one)), at);
                }
            }
        }
        self.inside.pop();
    }

    /// One of the pairs must be free of breaks; else those of the `n`-th are noted, which most likely was meant.
    fn covered<'s>(&mut self, n: usize, pairs: impl Iterator<Item = (&'s Shape, &'s Shape)>, at: &str) {
        let attempts = pairs.map(|(old, new)| {
            let mut attempt = Self { found: Vec::new(), inside: self.inside.clone(), ..*self };
            attempt.shapes(old, new, at);
            attempt.found
        });
        let mut attempts: Vec<_> = attempts.collect();
        if attempts.is_empty() || attempts.iter().any(Vec::is_empty) {
            return;
        }
        let meant = attempts.swap_remove(n.min(attempts.len() - 1));
        for (at, change) in meant {
            self.note(&at, change);
        }
    }

    fn shapes(&mut self, old: &Shape, new: &Shape, at: &str) {
        self.types(old, new, at);
        match (values(old), values(new), self.direction) {
            (None, Some(_), Direction::Request) => self.note(at, Change::ValuesRestricted),
            (Some(_), None, Direction::Answer) => self.note(at, Change::ValuesOpened),
            _ => {}
        }
        self.fields(old, new, at);
        self.limits(old, new, at);
        if let Some(before) = old.get("items") {
            self.node(before, new.get("items").unwrap_or(&Value::Bool(true)), &format!("{at}/*"));
        }
    }

    fn types(&mut self, old: &Shape, new: &Shape, at: &str) {
        let (before, now) = (types(old), types(new));
        let fits = match self.direction {
            Direction::Request => within(&before, &now),
            Direction::Answer => within(&now, &before),
        };
        if !fits {
            let shown = |types: &Option<BTreeSet<String>>| match types {
                Some(types) => types.iter().cloned().collect::<Vec<_>>().join(" or "),
                None => "anything".to_owned(),
            };
            self.note(at, Change::TypeChanged { from: shown(&before), to: shown(&now) });
        }
    }

    fn fields(&mut self, old: &Shape, new: &Shape, at: &str) {
        let (before, now) = (object(old, "properties"), object(new, "properties"));
        for (name, schema) in before {
            let at = format!("{at}/{name}");
            match now.get(name) {
                Some(newer) => self.node(schema, newer, &at),
                None => self.note(&at, Change::FieldRemoved),
            }
        }
        let (required, required_now) = (required(old), required(new));
        match self.direction {
            Direction::Request => {
                for name in required_now.difference(&required) {
                    self.note(&format!("{at}/{name}"), Change::NewlyRequired);
                }
                if is_open(old) && !is_open(new) {
                    self.note(at, Change::Closed);
                }
            }
            Direction::Answer => {
                // A field that is gone altogether is noted as that.
                for name in required.difference(&required_now).filter(|name| now.contains_key(**name)) {
                    self.note(&format!("{at}/{name}"), Change::NoLongerAlwaysThere);
                }
            }
        }
    }

    fn limits(&mut self, old: &Shape, new: &Shape, at: &str) {
        for limit in LEAST {
            self.limit(limit, old, new, at, |was, is| is > was);
        }
        for limit in MOST {
            self.limit(limit, old, new, at, |was, is| is < was);
        }
        for limit in EXACT {
            let (was, is) = (old.get(*limit), new.get(*limit));
            let bound = if self.direction == Direction::Request { is } else { was };
            if was != is && bound.is_some() {
                self.note_limit(limit, was, is, at);
            }
        }
    }

    fn limit(
        &mut self,
        limit: &'static str,
        old: &Shape,
        new: &Shape,
        at: &str,
        tighter: fn(f64, f64) -> bool,
    ) {
        let (was, is) = (old.get(limit), new.get(limit));
        let number = |value: Option<&Value>| value.and_then(Value::as_f64);
        let broken = match (self.direction, number(was), number(is)) {
            (Direction::Request, Some(was), Some(is)) => tighter(was, is),
            (Direction::Request, None, Some(_)) | (Direction::Answer, Some(_), None) => true,
            (Direction::Answer, Some(was), Some(is)) => tighter(is, was),
            _ => false,
        };
        if broken {
            self.note_limit(limit, was, is, at);
        }
    }

    fn note_limit(&mut self, limit: &'static str, was: Option<&Value>, is: Option<&Value>, at: &str) {
        let shown = |value: Option<&Value>| value.map_or("not set".to_owned(), ToString::to_string);
        let (from, to) = (shown(was), shown(is));
        let change = match self.direction {
            Direction::Request => Change::Tightened { limit, from, to },
            Direction::Answer => Change::Loosened { limit, from, to },
        };
        self.note(at, change);
    }
}

/// The keywords of one alternative, all `$ref`, `allOf`, `anyOf` and `oneOf` worked in.
type Shape = Map<String, Value>;

fn alternatives(schema: &Value, root: &Value) -> Vec<Shape> {
    expand(schema, root, 0)
}

fn expand(schema: &Value, root: &Value, depth: usize) -> Vec<Shape> {
    let Value::Object(fields) = schema else { return vec![Shape::new()] };
    if depth > DEEPEST {
        return vec![Shape::new()];
    }
    let mut base = fields.clone();
    let target = base.remove("$ref").and_then(|target| resolve(&target, root));
    let all = base.remove("allOf");
    let choices = [base.remove("anyOf"), base.remove("oneOf")];
    let mut shapes = vec![base];
    let parts = target.into_iter().chain(all.into_iter().flat_map(into_items));
    for part in parts {
        shapes = product(&shapes, &expand(&part, root, depth + 1));
    }
    for choice in choices.into_iter().flatten() {
        let options: Vec<_> =
            into_items(choice).iter().flat_map(|option| expand(option, root, depth + 1)).collect();
        shapes = product(&shapes, &options);
    }
    shapes
}

fn into_items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn resolve(target: &Value, root: &Value) -> Option<Value> {
    root.pointer(target.as_str()?.strip_prefix('#')?).cloned()
}

fn product(left: &[Shape], right: &[Shape]) -> Vec<Shape> {
    left.iter().flat_map(|one| right.iter().map(|other| merge(one.clone(), other))).collect()
}

/// Both at once: fields and demands of both; where both say something else about one field, it is all of it.
fn merge(mut one: Shape, other: &Shape) -> Shape {
    for (keyword, value) in other {
        match (one.get_mut(keyword), value) {
            (Some(Value::Array(mine)), Value::Array(theirs)) if keyword == "required" => {
                mine.extend(theirs.iter().filter(|name| !mine.contains(name)).cloned().collect::<Vec<_>>());
            }
            (Some(Value::Object(mine)), Value::Object(theirs)) if keyword == "properties" => {
                for (name, schema) in theirs {
                    let both = match mine.remove(name) {
                        Some(before) => serde_json::json!({ "allOf": [before, schema] }),
                        None => schema.clone(),
                    };
                    mine.insert(name.clone(), both);
                }
            }
            (Some(mine), theirs) if keyword == "type" => *mine = both_types(mine, theirs),
            (Some(_), _) => {}
            (None, _) => {
                one.insert(keyword.clone(), value.clone());
            }
        }
    }
    one
}

fn both_types(one: &Value, other: &Value) -> Value {
    let (mine, theirs) = (type_names(one), type_names(other));
    Value::from(mine.intersection(&theirs).cloned().collect::<Vec<_>>())
}

fn type_names(value: &Value) -> BTreeSet<String> {
    match value {
        Value::String(name) => BTreeSet::from([name.clone()]),
        Value::Array(names) => names.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => BTreeSet::new(),
    }
}

/// `None` where any type fits.
fn types(shape: &Shape) -> Option<BTreeSet<String>> {
    shape.get("type").map(type_names)
}

fn within(part: &Option<BTreeSet<String>>, whole: &Option<BTreeSet<String>>) -> bool {
    match (part, whole) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(part), Some(whole)) => {
            part.iter().all(|name| whole.contains(name) || (name == "integer" && whole.contains("number")))
        }
    }
}

/// The listed values of `enum` or `const`, each as JSON.
fn values(shape: &Shape) -> Option<BTreeSet<String>> {
    match (shape.get("enum"), shape.get("const")) {
        (Some(Value::Array(values)), _) => Some(values.iter().map(ToString::to_string).collect()),
        (_, Some(value)) => Some(BTreeSet::from([value.to_string()])),
        _ => None,
    }
}

fn listed(shapes: &[Shape]) -> BTreeSet<String> {
    shapes.iter().filter_map(values).flatten().collect()
}

fn object<'s>(shape: &'s Shape, keyword: &str) -> &'s Map<String, Value> {
    static NONE: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    shape.get(keyword).and_then(Value::as_object).unwrap_or(&NONE)
}

fn required(shape: &Shape) -> BTreeSet<&str> {
    let names = shape.get("required").and_then(Value::as_array);
    names.into_iter().flatten().filter_map(Value::as_str).collect()
}

fn is_open(shape: &Shape) -> bool {
    shape.get("additionalProperties") != Some(&Value::Bool(false))
}
