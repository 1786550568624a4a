//! `user.update.v1`: changes a user's name, e-mail address or both.

use schemars::JsonSchema;
use serde::Serialize;

use crate::application::actor::Access;
use crate::application::dto::UserView;
use crate::application::error::{Detail, Reason, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::registry::{Command, Context, Decline};
use crate::application::schema::present;
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Email, Id, User, UserName};

/// Changes a user's name, e-mail address or both.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("anyOf" = [present("name"), present("email")]))]
pub struct UpdateUser {
    pub id: Id<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<UserName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
    /// Refuse unless the user is at this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub expected_version: Option<i64>,
}

impl Message for UpdateUser {
    const NAME: &'static str = "user.update.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let id = fields.id("id");
        let id = fields.required("id", id);
        let (name, email) = (fields.name("name"), fields.email("email"));
        let expected_version = fields.integer("expected_version", 1..=i64::MAX);
        if (&name, &email) == (&Ok(None), &Ok(None)) {
            fields.refuse("name", Reason::Missing, "name or email is required");
        }
        let payload = (|| {
            Some(Self {
                id: id?,
                name: name.ok()?,
                email: email.ok()?,
                expected_version: expected_version.ok()?,
            })
        })();
        fields.finish(payload)
    }
}

impl Command for UpdateUser {
    const ACCESS: Access = Access::OwnerOrAdmin;

    fn owner(&self) -> Option<Id<User>> {
        Some(self.id)
    }

    fn order_key(&self) -> String {
        self.id.to_string()
    }

    fn needs(&self) -> Needs {
        Needs::user(self.id).and_email(self.email.as_ref())
    }

    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<UserView, Decline> {
        let taken = self.email.as_ref().and_then(|email| work.holder(email)).is_some_and(|id| id != self.id);
        let user = work.user_mut(self.id).ok_or_else(Refusal::not_found)?;
        user.expect_version(self.expected_version)?;
        if taken {
            return Err(Refusal::email_taken().into());
        }
        if let Some(name) = &self.name {
            user.rename(name.clone(), context.now);
        }
        if let Some(email) = &self.email {
            user.change_email(email.clone(), context.now);
        }
        Ok(UserView::from(&*user))
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::*;
    use crate::application::command::testing::{ADA, read, run, two_users};
    use crate::application::error::Code;
    use crate::domain::UserEvent;

    fn ada(change: Value) -> UpdateUser {
        let Value::Object(mut payload) = change else { unreachable!("an object") };
        payload.entry("id").or_insert(json!(Uuid::from_u128(ADA)));
        read(Value::Object(payload)).unwrap()
    }

    #[test]
    fn both_changes_are_two_events_name_first() {
        let (view, events) =
            run(&ada(json!({"name": "Ada L", "email": "al@example.com"})), &mut two_users()).unwrap();
        assert_eq!((view.version, view.email.as_str()), (3, "al@example.com"));
        assert!(matches!(events.as_slice(), [UserEvent::Renamed { .. }, UserEvent::EmailChanged { .. }]));
    }

    #[test]
    fn what_changes_nothing_succeeds_and_keeps_the_version() {
        let same = json!({"name": "Somebody", "email": "ADA@example.com"});
        let (view, events) = run(&ada(same), &mut two_users()).unwrap();
        assert_eq!((view.version, events.len()), (1, 0));
    }

    #[rstest]
    #[case::taken(json!({"email": "bob@example.com"}), Code::Conflict)]
    #[case::stale(json!({"name": "Ada L", "expected_version": 2}), Code::Conflict)]
    #[case::unknown(json!({"name": "Ada L", "id": Uuid::from_u128(77)}), Code::NotFound)]
    fn what_the_state_forbids_is_refused(#[case] change: Value, #[case] code: Code) {
        assert_eq!(run(&ada(change), &mut two_users()).unwrap_err(), code);
    }

    #[rstest]
    #[case(json!({"id": Uuid::from_u128(1)}), "name")]
    #[case(json!({"id": Uuid::from_u128(1), "name": null}), "name")]
    #[case(json!({"id": Uuid::from_u128(1), "name": "Al", "expected_version": 0}), "expected_version")]
    fn a_wrong_field_is_named(#[case] payload: Value, #[case] field: &str) {
        let details = read::<UpdateUser>(payload).unwrap_err();
        assert_eq!(details[0].field.as_deref(), Some(field));
    }
}
