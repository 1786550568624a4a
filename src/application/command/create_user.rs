//! `user.create.v1`: registers a user.

use schemars::JsonSchema;
use serde::Serialize;

use crate::application::actor::{Access, Actor};
use crate::application::dto::UserView;
use crate::application::error::{Detail, Failure, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::password::Password;
use crate::application::ports::Services;
use crate::application::registry::{Command, Context, Decline};
use crate::application::workspace::{Needs, Workspace};
use crate::domain::{Email, Id, PasswordHash, Role, User, UserName};

/// Registers a user.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateUser {
    pub email: Email,
    pub name: UserName,
    pub password: Password,
    /// The new user's id; made by the service if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id<User>>,
    /// `user` if absent; `admin` only from an admin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(skip)]
    #[schemars(skip)]
    hash: Option<PasswordHash>,
}

impl CreateUser {
    #[must_use]
    pub fn new(email: Email, name: UserName, password: impl Into<Password>) -> Self {
        Self { email, name, password: password.into(), id: None, role: None, hash: None }
    }
}

impl Message for CreateUser {
    const NAME: &'static str = "user.create.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let (email, name) = (fields.email("email"), fields.name("name"));
        let password = fields.password("password", true);
        let (id, role) = (fields.id("id"), fields.role("role"));
        let email = fields.required("email", email);
        let name = fields.required("name", name);
        let password = fields.required("password", password);
        let payload = (|| {
            Some(Self {
                email: email?,
                name: name?,
                password: password?,
                id: id.ok()?,
                role: role.ok()?,
                hash: None,
            })
        })();
        fields.finish(payload)
    }
}

impl Command for CreateUser {
    const ACCESS: Access = Access::Anyone;
    const PREPARES: bool = true;

    fn access(&self) -> Access {
        match self.role {
            Some(Role::Admin) => Access::Admin,
            Some(Role::User) | None => Self::ACCESS,
        }
    }

    fn owner(&self) -> Option<Id<User>> {
        None
    }

    fn order_key(&self) -> String {
        self.id.map_or_else(|| self.email.as_str().to_owned(), |id| id.to_string())
    }

    fn needs(&self) -> Needs {
        Needs { users: self.id.into_iter().collect(), ..Needs::default() }.and_email(Some(&self.email))
    }

    async fn prepare(&mut self, _: &Actor, services: &Services) -> Result<(), Failure> {
        if self.hash.is_none() {
            self.hash = Some(services.passwords.hash(&self.password).await?);
        }
        Ok(())
    }

    fn execute(&self, context: &Context<'_>, work: &mut Workspace) -> Result<UserView, Decline> {
        let id = self.id.unwrap_or_else(|| Id::new(context.fresh_id));
        if work.id_is_taken(id) {
            return Err(Refusal::id_taken().into());
        }
        if work.holder(&self.email).is_some() {
            return Err(Refusal::email_taken().into());
        }
        let hash = self.hash.clone().ok_or(Decline::Stale)?;
        let role = self.role.unwrap_or_default();
        let user = User::register(id, self.email.clone(), self.name.clone(), role, hash, context.now);
        let view = UserView::from(&user);
        work.add(user);
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use serde_json::{Value, json};

    use super::*;
    use crate::application::command::testing::{id, read, run, two_users};
    use crate::application::error::Code;
    use crate::domain::UserEvent;

    fn command(email: &str, n: Option<u128>) -> CreateUser {
        let mut command = CreateUser::new(email.parse().unwrap(), "Cleo".parse().unwrap(), "correct horse");
        command.id = n.map(id);
        command.hash = Some(PasswordHash::new("hash".into()));
        command
    }

    #[test]
    fn a_new_user_starts_at_version_1() {
        let (view, events) = run(&command("cleo@example.com", None), &mut two_users()).unwrap();
        assert_eq!((view.version, view.role), (1, Role::User));
        assert!(matches!(events.as_slice(), [UserEvent::Created { .. }]));
    }

    #[rstest]
    #[case::email("ada@example.com", None, Code::Conflict)]
    #[case::email_in_capitals("ADA@example.com", None, Code::Conflict)]
    #[case::id("cleo@example.com", Some(1), Code::Conflict)]
    fn what_is_taken_is_refused(#[case] email: &str, #[case] id: Option<u128>, #[case] code: Code) {
        assert_eq!(run(&command(email, id), &mut two_users()).unwrap_err(), code);
    }

    #[rstest]
    #[case(json!({"email": "a@x.io", "name": "Al", "password": "12345678"}), &[])]
    #[case(json!({}), &["email", "name", "password"])]
    #[case(json!({"email": "a@x.io", "name": "Al", "password": "12345678", "role": "root"}), &["role"])]
    #[case(json!({"email": "a@x.io", "name": "Al", "password": "12345678", "hash": "x"}), &["hash"])]
    #[case(json!({"email": 7, "name": "A", "password": "a\u{0}bcdefgh", "id": "x"}), &["email", "id", "name", "password"])]
    fn every_wrong_field_is_named(#[case] payload: Value, #[case] wrong: &[&str]) {
        let mut named: Vec<String> = match read::<CreateUser>(payload) {
            Ok(_) => Vec::new(),
            Err(details) => details.into_iter().filter_map(|detail| detail.field.map(Into::into)).collect(),
        };
        named.sort();
        assert_eq!(named, wrong);
    }
}
