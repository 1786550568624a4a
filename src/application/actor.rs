//! Who is asking (CONTRACT.md §8), and the one place that decides whether they may.

use std::fmt;

use crate::domain::{Id, Role, User};

use super::error::{Reason, Refusal};

/// Whom a message comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// The holder of an access token.
    User {
        id: Id<User>,
        role: Role,
    },
    /// The broker-validated `user_id`, named in `ROSTER_SERVICES`.
    Service {
        name: String,
        grant: Grant,
    },
    Anonymous,
}

/// What a service may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grant {
    Reader,
    Admin,
}

/// Who may send a message: the last column of CONTRACT.md §6 and §7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Anyone,
    Admin,
    /// The user that the message names, or an admin.
    OwnerOrAdmin,
    /// The user that the message names, an admin, or a reader service.
    OwnerOrReader,
    AdminOrReader,
}

impl Actor {
    #[must_use]
    pub const fn is_admin(&self) -> bool {
        matches!(self, Self::User { role: Role::Admin, .. } | Self::Service { grant: Grant::Admin, .. })
    }

    const fn is_reader(&self) -> bool {
        matches!(self, Self::Service { grant: Grant::Reader, .. })
    }

    /// Decided before anything is looked up. `owner` is the user that the message names by id.
    ///
    /// # Errors
    /// `UNAUTHORIZED` / `missing_token` for the anonymous, `FORBIDDEN` / `not_allowed` for the known.
    pub fn may(&self, access: Access, owner: Option<Id<User>>) -> Result<(), Refusal> {
        let owns = matches!(self, Self::User { id, .. } if Some(*id) == owner);
        let allowed = match access {
            Access::Anyone => true,
            Access::Admin => self.is_admin(),
            Access::OwnerOrAdmin => self.is_admin() || owns,
            Access::OwnerOrReader => self.is_admin() || owns || self.is_reader(),
            Access::AdminOrReader => self.is_admin() || self.is_reader(),
        };
        match self {
            _ if allowed => Ok(()),
            Self::Anonymous => Err(Refusal::unauthorized(Reason::MissingToken)),
            _ => Err(Refusal::forbidden()),
        }
    }
}

/// As events and the inbox name it: `user:<id>`, `service:<name>` or `anonymous`.
impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User { id, .. } => write!(f, "user:{id}"),
            Self::Service { name, .. } => write!(f, "service:{name}"),
            Self::Anonymous => f.write_str("anonymous"),
        }
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use uuid::Uuid;

    use super::*;
    use crate::application::error::Code;

    fn user(n: u128, role: Role) -> Actor {
        Actor::User { id: Id::new(Uuid::from_u128(n)), role }
    }

    fn service(grant: Grant) -> Actor {
        Actor::Service { name: "billing".into(), grant }
    }

    #[rstest]
    #[case(Actor::Anonymous, Access::Anyone, None)]
    #[case(Actor::Anonymous, Access::Admin, Some(Code::Unauthorized))]
    #[case(Actor::Anonymous, Access::OwnerOrReader, Some(Code::Unauthorized))]
    #[case(user(1, Role::User), Access::OwnerOrAdmin, None)]
    #[case(user(1, Role::User), Access::OwnerOrReader, None)]
    #[case(user(2, Role::User), Access::OwnerOrAdmin, Some(Code::Forbidden))]
    #[case(user(2, Role::User), Access::AdminOrReader, Some(Code::Forbidden))]
    #[case(user(2, Role::Admin), Access::OwnerOrAdmin, None)]
    #[case(service(Grant::Reader), Access::OwnerOrReader, None)]
    #[case(service(Grant::Reader), Access::AdminOrReader, None)]
    #[case(service(Grant::Reader), Access::OwnerOrAdmin, Some(Code::Forbidden))]
    #[case(service(Grant::Admin), Access::Admin, None)]
    fn access_is_one_table(#[case] actor: Actor, #[case] access: Access, #[case] refused: Option<Code>) {
        let owner = Some(Id::new(Uuid::from_u128(1)));
        assert_eq!(actor.may(access, owner).err().map(|refusal| refusal.code), refused);
    }
}
