//! `user.change_role.v1`: makes a user an admin, or no longer one.

use schemars::JsonSchema;
use serde::Serialize;

use crate::application::actor::Access;
use crate::application::dto::UserView;
use crate::application::error::{Detail, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::registry::{Command, Context, Decline};
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Id, Role, User};

/// Changes what a user may do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeRole {
    pub id: Id<User>,
    pub role: Role,
    /// Refuse unless the user is at this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub expected_version: Option<i64>,
}

impl Message for ChangeRole {
    const NAME: &'static str = "user.change_role.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let (id, role) = (fields.id("id"), fields.role("role"));
        let id = fields.required("id", id);
        let role = fields.required("role", role);
        let expected_version = fields.integer("expected_version", 1..=i64::MAX);
        let payload = (|| Some(Self { id: id?, role: role?, expected_version: expected_version.ok()? }))();
        fields.finish(payload)
    }
}

impl Command for ChangeRole {
    const ACCESS: Access = Access::Admin;

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
        user.change_role(self.role, context.now);
        Ok(UserView::from(&*user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::command::testing::{ADA, id, run, two_users};
    use crate::application::error::Code;
    use crate::domain::UserEvent;

    fn to(role: Role, expected_version: Option<i64>) -> ChangeRole {
        ChangeRole { id: id(ADA), role, expected_version }
    }

    #[test]
    fn the_event_tells_the_previous_role() {
        let (view, events) = run(&to(Role::Admin, Some(1)), &mut two_users()).unwrap();
        assert_eq!((view.role, view.version), (Role::Admin, 2));
        assert_eq!(events, [UserEvent::RoleChanged { role: Role::Admin, previous_role: Role::User }]);
    }

    #[test]
    fn the_same_role_again_changes_nothing() {
        let (view, events) = run(&to(Role::User, None), &mut two_users()).unwrap();
        assert_eq!((view.version, events.len()), (1, 0));
    }

    #[test]
    fn a_stale_version_is_a_conflict() {
        assert_eq!(run(&to(Role::Admin, Some(9)), &mut two_users()).unwrap_err(), Code::Conflict);
    }
}
