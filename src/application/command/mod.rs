//! The commands of the contract, one file each. A new one is its file and a line in [`registry`].

mod change_password;
mod change_role;
mod create_user;
mod delete_user;
mod update_user;

pub use change_password::ChangePassword;
pub use change_role::ChangeRole;
pub use create_user::CreateUser;
pub use delete_user::DeleteUser;
pub use update_user::UpdateUser;

use super::registry::{DuplicateName, Registry};

/// Every command that Roster takes.
///
/// # Errors
/// [`DuplicateName`], which is a bug.
pub fn registry() -> Result<Registry, DuplicateName> {
    Registry::default()
        .command::<CreateUser>()?
        .command::<UpdateUser>()?
        .command::<ChangePassword>()?
        .command::<ChangeRole>()?
        .command::<DeleteUser>()
}

#[cfg(test)]
mod testing;
