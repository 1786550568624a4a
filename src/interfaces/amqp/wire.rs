//! Between AMQP's properties and the application's messages.

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::application::kept::KeptReason;
use crate::application::message::{Header, Properties, RawMessage, Trace};

/// A delivery as the application takes it. Leaves it without its body.
pub fn raw(delivery: &mut Delivery) -> RawMessage {
    let properties = &delivery.properties;
    let headers = properties.headers().as_ref();
    let text = |value: &Option<ShortString>| value.as_ref().map(|text| text.as_str().to_owned());
    RawMessage {
        properties: Properties {
            kind: text(properties.kind()),
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            content_type: text(properties.content_type()),
            user_id: text(properties.user_id()),
            timestamp: *properties.timestamp(),
            deadline: header(headers, "deadline"),
            traceparent: plain(headers, "traceparent"),
            tracestate: plain(headers, "tracestate"),
            authorization: header(headers, "authorization"),
        },
        body: std::mem::take(&mut delivery.data),
    }
}

fn find<'a>(headers: Option<&'a FieldTable>, name: &str) -> Option<&'a AMQPValue> {
    headers?.inner().get(name)
}

fn header(headers: Option<&FieldTable>, name: &str) -> Option<Header> {
    let text = match find(headers, name)? {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok().map(str::to_owned),
        AMQPValue::ShortString(text) => Some(text.as_str().to_owned()),
        AMQPValue::Void => return None,
        _ => None,
    };
    Some(text.map_or(Header::NotText {}, Header::Text))
}

fn plain(headers: Option<&FieldTable>, name: &str) -> Option<String> {
    match header(headers, name) {
        Some(Header::Text(text)) => Some(text),
        _ => None,
    }
}

/// How often the broker has delivered this message before.
#[must_use]
pub fn delivery_count(delivery: &Delivery) -> u64 {
    // The broker writes the header with the second delivery; on a first one it is the sender's own.
    if !delivery.redelivered {
        return 0;
    }
    let count = match find(delivery.properties.headers().as_ref(), "x-delivery-count") {
        Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::LongInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::LongUInt(count)) => Some(u64::from(*count)),
        Some(AMQPValue::ShortInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::ShortUInt(count)) => Some(u64::from(*count)),
        Some(AMQPValue::ShortShortInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::ShortShortUInt(count)) => Some(u64::from(*count)),
        _ => None,
    };
    // A classic queue does not count, but tells a second delivery from the first.
    count.unwrap_or(0).max(1)
}

/// Why the broker parked a message: the newest entry of its `x-death`.
#[must_use]
pub fn parked_for(delivery: &Delivery) -> KeptReason {
    let reason = match find(delivery.properties.headers().as_ref(), "x-death") {
        Some(AMQPValue::FieldArray(deaths)) => match deaths.as_slice().first() {
            Some(AMQPValue::FieldTable(death)) => plain(Some(death), "reason"),
            _ => None,
        },
        _ => None,
    };
    match reason.as_deref() {
        Some("expired") => KeptReason::Expired,
        _ => KeptReason::DeliveryLimit,
    }
}

/// The properties of a reply.
pub(super) fn reply_properties(
    correlation_id: Option<&str>,
    trace: &Trace,
    replayed: bool,
) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert("replayed".into(), AMQPValue::Boolean(replayed));
    if let Some(parent) = &trace.parent {
        headers.insert("traceparent".into(), AMQPValue::LongString(parent.as_str().into()));
    }
    if let Some(state) = &trace.state {
        headers.insert("tracestate".into(), AMQPValue::LongString(state.as_str().into()));
    }
    let properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_type("reply".into())
        .with_headers(headers);
    match correlation_id {
        Some(id) => properties.with_correlation_id(id.into()),
        None => properties,
    }
}
