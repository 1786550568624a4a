//! What each event carries in its `data`, and the list of all events. A field is added here, never taken away.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::{Role, UserEvent};

/// The data of one event type.
trait EventData: Serialize + JsonSchema {
    const NAME: &'static str;
}

/// A user was registered.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserCreated {
    email: String,
    name: String,
    role: Role,
}

/// A user has another name.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserRenamed {
    name: String,
}

/// A user has another e-mail address.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserEmailChanged {
    email: String,
}

/// A user has another role.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserRoleChanged {
    role: Role,
    previous_role: Role,
}

/// A user has another password.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserPasswordChanged {}

/// A user was deleted; the e-mail address is free again.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct UserDeleted {}

impl EventData for UserCreated {
    const NAME: &'static str = "user.created.v1";
}

impl EventData for UserRenamed {
    const NAME: &'static str = "user.renamed.v1";
}

impl EventData for UserEmailChanged {
    const NAME: &'static str = "user.email_changed.v1";
}

impl EventData for UserRoleChanged {
    const NAME: &'static str = "user.role_changed.v1";
}

impl EventData for UserPasswordChanged {
    const NAME: &'static str = "user.password_changed.v1";
}

impl EventData for UserDeleted {
    const NAME: &'static str = "user.deleted.v1";
}

/// An event's type and its data.
#[must_use]
pub fn describe(event: &UserEvent) -> (&'static str, Value) {
    match event {
        UserEvent::Created { email, name, role } => {
            told(UserCreated { email: email.as_str().into(), name: name.as_str().into(), role: *role })
        }
        UserEvent::Renamed { name } => told(UserRenamed { name: name.as_str().into() }),
        UserEvent::EmailChanged { email } => told(UserEmailChanged { email: email.as_str().into() }),
        UserEvent::RoleChanged { role, previous_role } => {
            told(UserRoleChanged { role: *role, previous_role: *previous_role })
        }
        UserEvent::PasswordChanged => told(UserPasswordChanged {}),
        UserEvent::Deleted => told(UserDeleted {}),
    }
}

fn told<E: EventData>(data: E) -> (&'static str, Value) {
    // A struct of strings always serialises.
    (E::NAME, serde_json::to_value(data).unwrap_or_else(|_| Value::Object(Map::new())))
}

/// What the schemas say of one event.
#[derive(Debug, Clone)]
pub struct EventContract {
    pub name: &'static str,
    /// Of its `data`.
    pub data: Schema,
}

/// Every event that Roster publishes.
#[must_use]
pub fn event_contracts(writing: impl Fn() -> SchemaGenerator) -> Vec<EventContract> {
    fn contract<E: EventData>(writing: SchemaGenerator) -> EventContract {
        EventContract { name: E::NAME, data: writing.into_root_schema_for::<E>() }
    }
    vec![
        contract::<UserCreated>(writing()),
        contract::<UserRenamed>(writing()),
        contract::<UserEmailChanged>(writing()),
        contract::<UserRoleChanged>(writing()),
        contract::<UserPasswordChanged>(writing()),
        contract::<UserDeleted>(writing()),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use schemars::generate::SchemaSettings;
    use serde_json::json;

    use super::*;

    fn one_of_each() -> Vec<UserEvent> {
        let (email, name) = ("ada@example.com".parse().unwrap(), "Ada".parse().unwrap());
        vec![
            UserEvent::Created { email, name, role: Role::User },
            UserEvent::Renamed { name: "Ada L".parse().unwrap() },
            UserEvent::EmailChanged { email: "a@example.com".parse().unwrap() },
            UserEvent::RoleChanged { role: Role::Admin, previous_role: Role::User },
            UserEvent::PasswordChanged,
            UserEvent::Deleted,
        ]
    }

    #[test]
    fn data_is_what_the_contract_says() {
        let told: Vec<_> = one_of_each().iter().map(describe).collect();
        assert_eq!(told[0].1, json!({ "email": "ada@example.com", "name": "Ada", "role": "user" }));
        assert_eq!(told[3].1, json!({ "role": "admin", "previous_role": "user" }));
        assert_eq!(told[5], ("user.deleted.v1", json!({})));
    }

    #[test]
    fn every_event_has_a_schema_that_its_data_fits() {
        let contracts = event_contracts(|| SchemaSettings::draft2020_12().into_generator());
        let listed: BTreeSet<_> = contracts.iter().map(|contract| contract.name).collect();
        let told: BTreeSet<_> = one_of_each().iter().map(|event| describe(event).0).collect();
        assert_eq!(listed, told);
        for (name, data) in one_of_each().iter().map(describe) {
            let contract = contracts.iter().find(|contract| contract.name == name).unwrap();
            assert!(jsonschema::is_valid(contract.data.as_value(), &data), "{name}");
        }
    }
}
