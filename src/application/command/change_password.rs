//! `user.change_password.v1`: replaces a user's password.

use schemars::JsonSchema;
use serde::Serialize;

use crate::application::actor::{Access, Actor};
use crate::application::dto::UserView;
use crate::application::error::{Detail, Failure, Reason, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::password::Password;
use crate::application::ports::Services;
use crate::application::registry::{Command, Context, Decline};
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Id, PasswordHash, User};

/// Replaces a user's password.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangePassword {
    pub id: Id<User>,
    pub new_password: Password,
    /// Required unless an admin asks. At most 1024 bytes; an old one may be shorter than a new one must be.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 0))]
    pub current_password: Option<Password>,
    #[serde(skip)]
    #[schemars(skip)]
    prepared: Option<Prepared>,
}

/// What was found before the transaction.
#[derive(Debug)]
struct Prepared {
    new_hash: PasswordHash,
    /// The hash that `current_password` was checked against, and whether it matched; `None` without a check.
    checked: Option<(PasswordHash, bool)>,
}

impl ChangePassword {
    #[must_use]
    pub fn new(id: Id<User>, new_password: impl Into<Password>, current_password: Option<Password>) -> Self {
        Self { id, new_password: new_password.into(), current_password, prepared: None }
    }
}

impl Message for ChangePassword {
    const NAME: &'static str = "user.change_password.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let id = fields.id("id");
        let id = fields.required("id", id);
        let new_password = fields.password("new_password", true);
        let new_password = fields.required("new_password", new_password);
        let current_password = fields.password("current_password", false);
        let payload = (|| {
            Some(Self {
                id: id?,
                new_password: new_password?,
                current_password: current_password.ok()?,
                prepared: None,
            })
        })();
        fields.finish(payload)
    }
}

impl Command for ChangePassword {
    const ACCESS: Access = Access::OwnerOrAdmin;
    const PREPARES: bool = true;

    fn owner(&self) -> Option<Id<User>> {
        Some(self.id)
    }

    fn order_key(&self) -> String {
        self.id.to_string()
    }

    fn needs(&self) -> Needs {
        Needs::user(self.id)
    }

    /// Runs again after a failure or [`Decline::Stale`]: then only the check is repeated.
    async fn prepare(&mut self, _: &Actor, services: &Services) -> Result<(), Failure> {
        let new_hash = match self.prepared.take() {
            Some(prepared) => prepared.new_hash,
            None => services.passwords.hash(&self.new_password).await?,
        };
        // Kept whatever becomes of the check.
        let prepared = self.prepared.insert(Prepared { new_hash, checked: None });
        if let Some(current) = &self.current_password
            && let Some(hash) = services.read.password_hash(self.id).await?
        {
            let matches = services.passwords.verify(current, &hash).await?;
            prepared.checked = Some((hash, matches));
        }
        Ok(())
    }

    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<UserView, Decline> {
        let prepared = self.prepared.as_ref().ok_or(Decline::Stale)?;
        let user = work.user_mut(self.id).ok_or_else(Refusal::not_found)?;
        match (&self.current_password, &prepared.checked) {
            (None, _) if context.actor.is_admin() => {}
            (None, _) => {
                let detail = Detail::new("current_password", Reason::Missing, "is required");
                return Err(Refusal::invalid(vec![detail]).into());
            }
            (Some(_), Some((hash, matches))) if hash == user.password_hash() => {
                if !matches {
                    return Err(Refusal::unauthorized(Reason::InvalidCredentials).into());
                }
            }
            (Some(_), _) => return Err(Decline::Stale),
        }
        user.change_password(prepared.new_hash.clone(), context.now);
        Ok(UserView::from(&*user))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::application::command::testing::{ADA, admin, id, now, two_users};
    use crate::application::error::Code;
    use crate::domain::Role;

    fn command(current: Option<&str>, checked: Option<(&str, bool)>) -> ChangePassword {
        let mut command = ChangePassword::new(id(ADA), "a new password", current.map(Password::from));
        command.prepared = Some(Prepared {
            new_hash: PasswordHash::new("new hash".into()),
            checked: checked.map(|(hash, matches)| (PasswordHash::new(hash.into()), matches)),
        });
        command
    }

    fn run(command: &ChangePassword, actor: &Actor) -> Result<i64, Decline> {
        let context = Context { now: now(), actor, fresh_id: uuid::Uuid::from_u128(99) };
        command.execute(&context, &mut two_users()).map(|view| view.version)
    }

    fn ada() -> Actor {
        Actor::User { id: id(ADA), role: Role::User }
    }

    fn refused(result: Result<i64, Decline>) -> Option<Code> {
        match result {
            Err(Decline::Refused(refusal)) => Some(refusal.code),
            _ => None,
        }
    }

    #[test]
    fn an_admin_needs_no_current_password() {
        assert_eq!(run(&command(None, None), &admin()), Ok(2));
        assert_eq!(refused(run(&command(None, None), &ada())), Some(Code::BadRequest));
    }

    #[test]
    fn the_right_current_password_is_needed_where_it_is_given() {
        assert_eq!(run(&command(Some("right"), Some(("old hash", true))), &ada()), Ok(2));
        let wrong = command(Some("wrong"), Some(("old hash", false)));
        assert_eq!(refused(run(&wrong, &admin())), Some(Code::Unauthorized));
    }

    #[test]
    fn a_password_that_changed_since_the_check_is_checked_again() {
        assert_eq!(run(&command(Some("right"), Some(("older hash", true))), &ada()), Err(Decline::Stale));
        assert_eq!(run(&command(Some("right"), None), &ada()), Err(Decline::Stale));
    }
}
