//! `user.get.v1`: one user, by id or e-mail address.

use schemars::JsonSchema;
use serde::Serialize;

use super::{NoAnswer, Query};
use crate::application::actor::Access;
use crate::application::dto::{Reply, UserView};
use crate::application::error::{Detail, Reason, Refusal};
use crate::application::fields::Fields;
use crate::application::message::{Message, NoMeta};
use crate::application::ports::ReadModel;
use crate::application::schema::present;
use crate::domain::{Email, Id, User};

/// Asks for one user, by `id` or by `email`.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [present("id"), present("email")]))]
pub struct GetUser {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Id<User>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
}

/// What a user is looked up by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum UserKey {
    Id(Id<User>),
    Email(Email),
}

impl GetUser {
    #[must_use]
    pub const fn by_id(id: Id<User>) -> Self {
        Self { id: Some(id), email: None }
    }

    #[must_use]
    pub const fn by_email(email: Email) -> Self {
        Self { id: None, email: Some(email) }
    }
}

impl Message for GetUser {
    const NAME: &'static str = "user.get.v1";
    type Data = UserView;
    type Meta = NoMeta;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let (id, email) = (fields.id("id"), fields.email("email"));
        match (&id, &email) {
            (Ok(None), Ok(None)) => fields.refuse("id", Reason::Missing, "id or email is required"),
            (Ok(Some(_)), Ok(Some(_))) => {
                fields.refuse("email", Reason::InvalidValue, "either id or email, not both");
            }
            _ => {}
        }
        let payload = (|| Some(Self { id: id.ok()?, email: email.ok()? }))();
        fields.finish(payload)
    }
}

impl Query for GetUser {
    const ACCESS: Access = Access::OwnerOrReader;

    fn owner(&self) -> Option<Id<User>> {
        self.id
    }

    async fn answer(self, read: &dyn ReadModel) -> Result<Reply<UserView, NoMeta>, NoAnswer> {
        let key = self.id.map(UserKey::Id).or_else(|| self.email.map(UserKey::Email));
        let user = match key {
            Some(key) => read.user(key).await?,
            None => None,
        };
        Ok(Reply { data: user.ok_or_else(Refusal::not_found)?, meta: None })
    }
}
