//! `user.delete.v1`: deletes a user softly; the e-mail address becomes free.

use schemars::JsonSchema;
use serde::Serialize;

use crate::application::actor::Access;
use crate::application::dto::UserView;
use crate::application::error::{Detail, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::registry::{Command, Context, Decline};
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Id, User};

/// Deletes a user. The reply shows the user as it was before.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeleteUser {
    pub id: Id<User>,
    /// Refuse unless the user is at this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub expected_version: Option<i64>,
}

impl Message for DeleteUser {
    const NAME: &'static str = "user.delete.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let id = fields.id("id");
        let id = fields.required("id", id);
        let expected_version = fields.integer("expected_version", 1..=i64::MAX);
        let payload = (|| Some(Self { id: id?, expected_version: expected_version.ok()? }))();
        fields.finish(payload)
    }
}

impl Command for DeleteUser {
    const ACCESS: Access = Access::OwnerOrAdmin;

    fn owner(&self) -> Option<Id<User>> {
        Some(self.id)
    }

    fn order_key(&self) -> String {
        self.id.to_string()
    }

    fn needs(&self) -> Needs {
        Needs::user(self.id)
    }

    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<UserView, Decline> {
        let user = work.user_mut(self.id).ok_or_else(Refusal::not_found)?;
        user.expect_version(self.expected_version)?;
        let before = UserView::from(&*user);
        user.delete(context.now);
        Ok(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::command::testing::{ADA, id, run, two_users};
    use crate::application::error::Code;
    use crate::domain::{Email, UserEvent};

    #[test]
    fn a_deleted_user_is_not_found_and_its_address_is_free() {
        let mut work = two_users();
        let command = DeleteUser { id: id(ADA), expected_version: Some(1) };
        let (before, events) = run(&command, &mut work).unwrap();
        assert_eq!((before.version, events), (1, vec![UserEvent::Deleted]));
        assert_eq!(work.holder(&Email::parse("ada@example.com").unwrap()), None);
        assert_eq!(run(&command, &mut work).unwrap_err(), Code::NotFound);
    }
}
