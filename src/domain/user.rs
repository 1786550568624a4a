//! The user aggregate: its state, what may be done to it, and the events that doing so records.

use chrono::{DateTime, Utc};
use thiserror::Error;

use super::{Email, Id, PasswordHash, Role, UserName};

/// Something that happened to a user. The n-th event of a user has the sequence n.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UserEvent {
    Created { email: Email, name: UserName, role: Role },
    Renamed { name: UserName },
    EmailChanged { email: Email },
    RoleChanged { role: Role, previous_role: Role },
    PasswordChanged,
    Deleted,
}

/// Why a user refuses what was asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum UserError {
    #[error("the user's version is {actual}, not {expected}")]
    VersionMismatch { expected: i64, actual: i64 },
}

/// A user's state as it is stored: what [`User::rehydrate`] takes and [`User::state`] shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserState {
    pub id: Id<User>,
    pub email: Email,
    pub name: UserName,
    pub role: Role,
    pub password_hash: PasswordHash,
    /// The sequence of the user's last event.
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A user account. Every method that changes it records the event and raises the version by one;
/// one that would change nothing does neither.
#[derive(Debug, Clone)]
pub struct User {
    state: UserState,
    recorded: Vec<UserEvent>,
}

impl User {
    /// A new account, at version 1.
    #[must_use]
    pub fn register(
        id: Id<Self>,
        email: Email,
        name: UserName,
        role: Role,
        password_hash: PasswordHash,
        now: DateTime<Utc>,
    ) -> Self {
        let event = UserEvent::Created { email: email.clone(), name: name.clone(), role };
        let state = UserState {
            id,
            email,
            name,
            role,
            password_hash,
            version: 1,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        };
        Self { state, recorded: vec![event] }
    }

    /// A user that exists already, as it was stored; records nothing.
    #[must_use]
    pub const fn rehydrate(state: UserState) -> Self {
        Self { state, recorded: Vec::new() }
    }

    #[must_use]
    pub const fn state(&self) -> &UserState {
        &self.state
    }

    #[must_use]
    pub const fn id(&self) -> Id<Self> {
        self.state.id
    }

    #[must_use]
    pub const fn email(&self) -> &Email {
        &self.state.email
    }

    #[must_use]
    pub const fn version(&self) -> i64 {
        self.state.version
    }

    #[must_use]
    pub const fn password_hash(&self) -> &PasswordHash {
        &self.state.password_hash
    }

    #[must_use]
    pub const fn is_deleted(&self) -> bool {
        self.state.deleted_at.is_some()
    }

    /// Refuses to go on from another version than the caller saw.
    ///
    /// # Errors
    /// [`UserError::VersionMismatch`].
    pub const fn expect_version(&self, expected: Option<i64>) -> Result<(), UserError> {
        match expected {
            Some(expected) if expected != self.state.version => {
                Err(UserError::VersionMismatch { expected, actual: self.state.version })
            }
            _ => Ok(()),
        }
    }

    pub fn rename(&mut self, name: UserName, now: DateTime<Utc>) {
        if name != self.state.name {
            self.state.name = name.clone();
            self.record(UserEvent::Renamed { name }, now);
        }
    }

    pub fn change_email(&mut self, email: Email, now: DateTime<Utc>) {
        if email != self.state.email {
            self.state.email = email.clone();
            self.record(UserEvent::EmailChanged { email }, now);
        }
    }

    pub fn change_role(&mut self, role: Role, now: DateTime<Utc>) {
        let previous_role = self.state.role;
        if role != previous_role {
            self.state.role = role;
            self.record(UserEvent::RoleChanged { role, previous_role }, now);
        }
    }

    pub fn change_password(&mut self, hash: PasswordHash, now: DateTime<Utc>) {
        self.state.password_hash = hash;
        self.record(UserEvent::PasswordChanged, now);
    }

    /// Deletes softly: the row stays, the e-mail becomes free.
    pub fn delete(&mut self, now: DateTime<Utc>) {
        if self.state.deleted_at.is_none() {
            self.state.deleted_at = Some(now);
            self.record(UserEvent::Deleted, now);
        }
    }

    /// The events recorded since construction or the last call, with their sequences.
    pub fn take_events(&mut self) -> impl Iterator<Item = (i64, UserEvent)> + use<> {
        let events = std::mem::take(&mut self.recorded);
        let before = self.state.version - i64::try_from(events.len()).unwrap_or(i64::MAX);
        (before + 1..).zip(events)
    }

    #[must_use]
    pub const fn has_events(&self) -> bool {
        !self.recorded.is_empty()
    }

    /// How many events are recorded and not taken.
    #[must_use]
    pub const fn recorded(&self) -> usize {
        self.recorded.len()
    }

    /// A clock that was set back never makes a user older than it is.
    fn record(&mut self, event: UserEvent, now: DateTime<Utc>) {
        self.state.version += 1;
        self.state.updated_at = self.state.updated_at.max(now);
        self.recorded.push(event);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    fn ada() -> User {
        User::register(
            Id::new(Uuid::from_u128(1)),
            "ada@example.com".parse().unwrap(),
            "Ada".parse().unwrap(),
            Role::User,
            PasswordHash::new("hash".into()),
            at(0),
        )
    }

    #[test]
    fn registering_records_the_first_event() {
        let mut user = ada();
        let events: Vec<_> = user.take_events().collect();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].0, 1);
        assert!(!user.has_events());
    }

    #[test]
    fn the_same_name_again_changes_nothing() {
        let mut user = User::rehydrate(ada().state().clone());
        user.rename("Ada".parse().unwrap(), at(9));
        assert_eq!((user.version(), user.has_events(), user.state().updated_at), (1, false, at(0)));
    }

    #[test]
    fn a_stale_version_is_refused() {
        let user = ada();
        assert_eq!(user.expect_version(None), Ok(()));
        assert_eq!(user.expect_version(Some(1)), Ok(()));
        assert_eq!(user.expect_version(Some(2)), Err(UserError::VersionMismatch { expected: 2, actual: 1 }));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Rename(u8),
        Email(u8),
        Role(bool),
        Password,
        Delete,
        Take,
        Store,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u8).prop_map(Step::Rename),
            (0..4_u8).prop_map(Step::Email),
            any::<bool>().prop_map(Step::Role),
            Just(Step::Password),
            Just(Step::Delete),
            Just(Step::Take),
            Just(Step::Store),
        ]
    }

    /// What a subscriber that applies every event would know.
    fn replay(events: &[(i64, UserEvent)]) -> (String, String, Role, bool) {
        let mut seen = (String::new(), String::new(), Role::User, false);
        for (_, event) in events {
            match event {
                UserEvent::Created { email, name, role } => {
                    seen = (email.as_str().into(), name.as_str().into(), *role, false);
                }
                UserEvent::Renamed { name } => seen.1 = name.as_str().into(),
                UserEvent::EmailChanged { email } => seen.0 = email.as_str().into(),
                UserEvent::RoleChanged { role, previous_role } => {
                    assert_eq!(*previous_role, seen.2);
                    seen.2 = *role;
                }
                UserEvent::PasswordChanged => {}
                UserEvent::Deleted => seen.3 = true,
            }
        }
        seen
    }

    proptest! {
        #[test]
        fn any_sequence_of_commands_keeps_version_sequence_and_state_in_step(
            steps in prop::collection::vec(step(), 0..40)
        ) {
            let mut user = ada();
            let mut log = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                let now = at(i64::try_from(n).unwrap());
                match step {
                    Step::Rename(n) => user.rename(format!("Name {n}").parse().unwrap(), now),
                    Step::Email(n) => user.change_email(format!("{n}@x.io").parse().unwrap(), now),
                    Step::Role(admin) => user.change_role(if admin { Role::Admin } else { Role::User }, now),
                    Step::Password => user.change_password(PasswordHash::new(n.to_string()), now),
                    Step::Delete => user.delete(now),
                    Step::Take => log.extend(user.take_events()),
                    Step::Store => {
                        log.extend(user.take_events());
                        user = User::rehydrate(user.state().clone());
                    }
                }
            }
            log.extend(user.take_events());
            prop_assert_eq!(user.version(), i64::try_from(log.len()).unwrap());
            prop_assert!(log.iter().map(|(n, _)| *n).eq(1..=user.version()));
            let (email, name, role, deleted) = replay(&log);
            prop_assert_eq!(
                (email.as_str(), name.as_str(), role, deleted),
                (user.email().as_str(), user.state().name.as_str(), user.state().role, user.is_deleted())
            );
        }
    }
}
