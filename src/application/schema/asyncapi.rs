//! The AsyncAPI 3 document, with the RabbitMQ bindings, for the namespace `roster`.
//!
//! Its schemas are those of the files, moved into `components`, because the format knows no 2020-12 of its own.

use serde_json::{Map, Value, json};

use super::request::any_reply;
use super::{Contract, Kind, RequestContract, writing};
use crate::application::dto::{EventContract, EventView};

const BINDING: &str = "0.3.0";

pub(super) fn document(contract: &Contract) -> Value {
    let mut schemas = Schemas::default();
    let mut messages = Map::new();
    let mut operations = Map::new();
    let mut replies = Map::new();
    for request in &contract.requests {
        let payload = schemas.add(request.name, request.payload.as_value());
        let answer = schemas.add(&format!("{}.reply", request.name), request.reply.as_value());
        messages.insert(request.name.to_owned(), request_message(request, &payload));
        messages.insert(format!("{}.reply", request.name), reply_message(request, &answer));
        operations.insert(request.name.to_owned(), receive(request));
        replies.insert(request.name.to_owned(), message_ref(&format!("{}.reply", request.name)));
    }
    schemas.add("Event", writing().into_root_schema_for::<EventView>().as_value());
    schemas.add("Reply", any_reply().as_value());
    for event in &contract.events {
        let data = schemas.add(&format!("{}.data", event.name), event.data.as_value());
        messages.insert(event.name.to_owned(), event_message(event, &data));
        operations.insert(event.name.to_owned(), send(event));
    }
    for (name, headers) in [
        ("CommandProperties", command_properties()),
        ("QueryProperties", query_properties()),
        ("ReplyProperties", reply_properties()),
        ("EventProperties", event_properties()),
    ] {
        schemas.0.insert(name.to_owned(), headers);
    }
    let names = |kind| {
        let of_kind = contract.requests.iter().filter(move |request| request.kind == kind);
        of_kind.map(|request| request.name).collect::<Vec<_>>()
    };
    let events: Vec<_> = contract.events.iter().map(|event| event.name).collect();
    json!({
        "asyncapi": "3.0.0",
        "id": "urn:roster",
        "info": {
            "title": "Roster",
            "version": "1.0.0",
            "description": DESCRIPTION,
            "license": { "name": "MIT" }
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "localhost:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ, wherever the installation has it"
            }
        },
        "channels": {
            "commands": exchange("commands", "Commands: the state changes, at most once per message_id.", &names(Kind::Command)),
            "queries": exchange("queries", "Queries: they only read.", &names(Kind::Query)),
            "events": exchange("events", "What has happened, as CloudEvents 1.0 in structured mode.", &events),
            "replies": {
                "address": null,
                "title": "The caller's reply queue",
                "description": "The default exchange, with the request's reply_to as routing key.",
                "messages": replies,
                "bindings": { "amqp": {
                    "is": "queue",
                    "queue": { "exclusive": true, "autoDelete": true, "durable": false, "vhost": "/" },
                    "bindingVersion": BINDING
                }}
            }
        },
        "operations": operations,
        "components": { "messages": messages, "schemas": schemas.0 }
    })
}

const DESCRIPTION: &str = "User accounts behind RabbitMQ: commands and queries in, replies and events out. \
    The names of exchanges start with the installation's namespace, here roster. AMQP properties stand among \
    the headers, marked x-amqp: property.";

fn exchange(name: &str, description: &str, types: &[&str]) -> Value {
    let messages: Map<_, _> = types.iter().map(|name| ((*name).to_owned(), message_ref(name))).collect();
    json!({
        "address": "{type}",
        "title": name,
        "description": description,
        "parameters": { "type": { "description": "The message's type.", "enum": types } },
        "messages": messages,
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": {
                "name": format!("roster.{name}"),
                "type": "topic",
                "durable": true,
                "autoDelete": false,
                "vhost": "/"
            },
            "bindingVersion": BINDING
        }}
    })
}

fn message_ref(name: &str) -> Value {
    json!({ "$ref": format!("#/components/messages/{name}") })
}

fn described(schema: &Value) -> Value {
    schema.get("description").cloned().unwrap_or_default()
}

fn request_message(request: &RequestContract, payload: &Value) -> Value {
    let properties = match request.kind {
        Kind::Command => "CommandProperties",
        Kind::Query => "QueryProperties",
    };
    json!({
        "name": request.name,
        "title": request.payload.get("title"),
        "summary": described(request.payload.as_value()),
        "contentType": "application/json",
        "headers": { "$ref": format!("#/components/schemas/{properties}") },
        "correlationId": { "location": "$message.header#/correlation_id" },
        "payload": payload,
        "bindings": { "amqp": { "messageType": request.name, "bindingVersion": BINDING } }
    })
}

fn reply_message(request: &RequestContract, payload: &Value) -> Value {
    json!({
        "name": "reply",
        "title": format!("Reply to {}", request.name),
        "contentType": "application/json",
        "headers": { "$ref": "#/components/schemas/ReplyProperties" },
        "correlationId": { "location": "$message.header#/correlation_id" },
        "payload": payload,
        "bindings": { "amqp": { "messageType": "reply", "bindingVersion": BINDING } }
    })
}

fn event_message(event: &EventContract, data: &Value) -> Value {
    json!({
        "name": event.name,
        "title": event.data.get("title"),
        "summary": described(event.data.as_value()),
        "contentType": "application/cloudevents+json",
        "headers": { "$ref": "#/components/schemas/EventProperties" },
        "payload": {
            "allOf": [
                { "$ref": "#/components/schemas/Event" },
                { "type": "object", "properties": { "type": { "const": event.name }, "data": data } }
            ]
        },
        "bindings": { "amqp": { "messageType": event.name, "bindingVersion": BINDING } }
    })
}

fn receive(request: &RequestContract) -> Value {
    let channel = request.kind.folder();
    json!({
        "action": "receive",
        "channel": { "$ref": format!("#/channels/{channel}") },
        "summary": described(request.payload.as_value()),
        "description": format!("Who may send it: {}.", request.senders()),
        "messages": [{ "$ref": format!("#/channels/{channel}/messages/{}", request.name) }],
        "reply": {
            "address": { "location": "$message.header#/reply_to" },
            "channel": { "$ref": "#/channels/replies" },
            "messages": [{ "$ref": format!("#/channels/replies/messages/{}", request.name) }]
        }
    })
}

fn send(event: &EventContract) -> Value {
    json!({
        "action": "send",
        "channel": { "$ref": "#/channels/events" },
        "summary": described(event.data.as_value()),
        "messages": [{ "$ref": format!("#/channels/events/messages/{}", event.name) }],
        "bindings": { "amqp": { "deliveryMode": 2, "bindingVersion": BINDING } }
    })
}

fn property(schema: Value, description: &str) -> Value {
    marked(schema, description, "property")
}

fn header(schema: Value, description: &str) -> Value {
    marked(schema, description, "header")
}

fn marked(mut schema: Value, description: &str, place: &str) -> Value {
    if let Value::Object(fields) = &mut schema {
        fields.insert("description".to_owned(), description.into());
        fields.insert("x-amqp".to_owned(), place.into());
    }
    schema
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn request_properties() -> Map<String, Value> {
    let time = || json!({ "type": "string", "format": "date-time" });
    [
        ("type", property(text(), "The message's name and version; it decides, whatever the routing key")),
        (
            "correlation_id",
            property(text(), "Copied to the reply; where absent, the reply carries the message_id"),
        ),
        (
            "reply_to",
            property(
                text(),
                "amq.rabbitmq.reply-to, or a queue that the installation allows: amq.gen-*, reply.*",
            ),
        ),
        ("content_type", property(json!({ "const": "application/json" }), "May be absent")),
        ("user_id", property(text(), "Checked by the broker: a proven service identity")),
        (
            "authorization",
            header(
                json!({ "type": "string", "pattern": "^Bearer " }),
                "The end user on whose behalf it is sent",
            ),
        ),
        ("deadline", header(time(), "Past it the request is not carried out and answered with EXPIRED")),
        ("traceparent", header(text(), "W3C Trace Context, continued into replies and events")),
        ("tracestate", header(text(), "W3C Trace Context")),
    ]
    .into_iter()
    .map(|(name, schema)| (name.to_owned(), schema))
    .collect()
}

fn command_properties() -> Value {
    let mut properties = request_properties();
    let id = json!({ "type": "string", "format": "uuid" });
    let about = "The idempotency key. A UUIDv7 carries its own time; any other needs a timestamp beside it, and a resend repeats both";
    properties.insert("message_id".to_owned(), property(id, about));
    let seconds = json!({ "type": "integer", "minimum": 0 });
    properties.insert(
        "timestamp".to_owned(),
        property(seconds, "Seconds since 1970; for a message_id that is no UUIDv7"),
    );
    json!({ "type": "object", "required": ["type", "message_id"], "properties": properties })
}

fn query_properties() -> Value {
    let mut properties = request_properties();
    let id = json!({ "type": "string", "format": "uuid" });
    properties.insert("message_id".to_owned(), property(id, "May be absent"));
    json!({ "type": "object", "required": ["type", "reply_to"], "properties": properties })
}

fn reply_properties() -> Value {
    json!({
        "type": "object",
        "required": ["type", "content_type", "replayed"],
        "properties": {
            "type": property(json!({ "const": "reply" }), "Always reply"),
            "content_type": property(json!({ "const": "application/json" }), "Always JSON"),
            "correlation_id": property(text(), "That of the request, or else its message_id"),
            "traceparent": header(text(), "That of the request"),
            "replayed": header(json!({ "type": "boolean" }), "True where an earlier answer to the same message_id is sent again")
        }
    })
}

fn event_properties() -> Value {
    let id = json!({ "type": "string", "format": "uuid" });
    json!({
        "type": "object",
        "required": ["type", "content_type", "message_id"],
        "properties": {
            "type": property(text(), "The event's type, and the routing key"),
            "content_type": property(json!({ "const": "application/cloudevents+json" }), "Always structured mode"),
            "message_id": property(id, "The event's id; a repeat has the same"),
            "traceparent": header(text(), "That of the command")
        }
    })
}

/// `components/schemas`, into which the `$defs` of all schemas are gathered.
#[derive(Default)]
struct Schemas(Map<String, Value>);

impl Schemas {
    /// Adds a schema with what it refers to, and gives the reference to it.
    fn add(&mut self, name: &str, schema: &Value) -> Value {
        let mut schema = schema.clone();
        if let Value::Object(fields) = &mut schema {
            fields.remove("$schema");
            if let Some(Value::Object(definitions)) = fields.remove("$defs") {
                for (name, mut definition) in definitions {
                    move_references(&mut definition);
                    self.0.insert(name, definition);
                }
            }
        }
        move_references(&mut schema);
        self.0.insert(name.to_owned(), schema);
        json!({ "$ref": format!("#/components/schemas/{name}") })
    }
}

fn move_references(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get_mut("$ref") {
                *target = target.replace("#/$defs/", "#/components/schemas/");
            }
            fields.values_mut().for_each(move_references);
        }
        Value::Array(items) => items.iter_mut().for_each(move_references),
        _ => {}
    }
}
