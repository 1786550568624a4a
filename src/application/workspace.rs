//! The aggregates of a batch, loaded and locked. Each command works on copies of its own; only success merges them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::domain::{Email, Id, User};

/// What a command wants loaded and locked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    pub users: BTreeSet<Id<User>>,
    /// Addresses whose holder matters, whether or not there is one.
    pub emails: BTreeSet<Email>,
}

impl Needs {
    #[must_use]
    pub fn user(id: Id<User>) -> Self {
        Self { users: BTreeSet::from([id]), ..Self::default() }
    }

    #[must_use]
    pub fn and_email(mut self, email: Option<&Email>) -> Self {
        self.emails.extend(email.cloned());
        self
    }

    pub fn extend(&mut self, other: Self) {
        self.users.extend(other.users);
        self.emails.extend(other.emails);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.emails.is_empty()
    }
}

/// Where handlers find and change users.
#[derive(Debug, Default)]
pub struct Workspace {
    users: HashMap<Id<User>, Slot>,
    holders: HashMap<Email, Id<User>>,
    draft: BTreeMap<Id<User>, User>,
}

#[derive(Debug)]
struct Slot {
    user: User,
    /// The version in the store; `None` where the batch created it.
    stored: Option<i64>,
}

impl Workspace {
    #[must_use]
    pub fn new(loaded: Vec<User>) -> Self {
        let mut workspace = Self::default();
        for user in loaded {
            if !user.is_deleted() {
                workspace.holders.insert(user.email().clone(), user.id());
            }
            let stored = Some(user.version());
            workspace.users.insert(user.id(), Slot { user, stored });
        }
        workspace
    }

    /// A user who is not deleted.
    #[must_use]
    pub fn user(&self, id: Id<User>) -> Option<&User> {
        self.any(id).filter(|user| !user.is_deleted())
    }

    /// A copy of a user to change, who is not deleted. What is done to it counts if the command succeeds.
    pub fn user_mut(&mut self, id: Id<User>) -> Option<&mut User> {
        if !self.draft.contains_key(&id) {
            let copy = self.users.get(&id)?.user.clone();
            self.draft.insert(id, copy);
        }
        self.draft.get_mut(&id).filter(|user| !user.is_deleted())
    }

    /// Whether the id was ever given to a user, deleted ones included.
    #[must_use]
    pub fn id_is_taken(&self, id: Id<User>) -> bool {
        self.any(id).is_some()
    }

    /// The user who has the address now.
    #[must_use]
    pub fn holder(&self, email: &Email) -> Option<Id<User>> {
        let drafted = self.draft.values().find(|user| !user.is_deleted() && user.email() == email);
        let merged = self.holders.get(email).filter(|id| {
            // A draft that gave the address up has the last word.
            self.draft.get(id).is_none_or(|user| !user.is_deleted() && user.email() == email)
        });
        drafted.map(User::id).or_else(|| merged.copied())
    }

    pub fn add(&mut self, user: User) {
        self.draft.insert(user.id(), user);
    }

    fn any(&self, id: Id<User>) -> Option<&User> {
        self.draft.get(&id).or_else(|| self.users.get(&id).map(|slot| &slot.user))
    }

    /// The users the present command has changed or added, with their events still recorded.
    pub fn drafted(&self) -> impl Iterator<Item = &User> {
        self.draft.values()
    }

    /// The present command succeeded: its copies are the truth now. Gives every event it recorded.
    pub fn merge(&mut self) -> Vec<(Id<User>, i64, crate::domain::UserEvent)> {
        let mut events = Vec::new();
        for (id, mut user) in std::mem::take(&mut self.draft) {
            events.extend(user.take_events().map(|(sequence, event)| (id, sequence, event)));
            let stored = match self.users.remove(&id) {
                Some(slot) => {
                    self.holders.retain_unless_moved(&slot.user, &user);
                    slot.stored
                }
                None => None,
            };
            if !user.is_deleted() {
                self.holders.insert(user.email().clone(), id);
            }
            self.users.insert(id, Slot { user, stored });
        }
        events
    }

    /// The present command was refused or panicked: its copies are gone.
    pub fn discard(&mut self) {
        self.draft.clear();
    }

    /// The users created, and the users changed with the version each had in the store; by id.
    #[must_use]
    pub fn into_changes(self) -> (Vec<User>, Vec<(i64, User)>) {
        let mut slots: Vec<Slot> = self.users.into_values().collect();
        slots.sort_unstable_by_key(|slot| slot.user.id());
        let (mut created, mut updated) = (Vec::new(), Vec::new());
        for slot in slots {
            match slot.stored {
                None => created.push(slot.user),
                Some(stored) if stored != slot.user.version() => updated.push((stored, slot.user)),
                Some(_) => {}
            }
        }
        (created, updated)
    }
}

trait Holders {
    fn retain_unless_moved(&mut self, before: &User, after: &User);
}

impl Holders for HashMap<Email, Id<User>> {
    /// Frees the address that `before` had and `after` has not, unless somebody else took it already.
    fn retain_unless_moved(&mut self, before: &User, after: &User) {
        let gone = after.is_deleted() || after.email() != before.email();
        if gone && self.get(before.email()) == Some(&before.id()) {
            self.remove(before.email());
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use uuid::Uuid;

    use super::*;
    use crate::domain::{PasswordHash, Role};

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000, 0).unwrap()
    }

    fn id(n: u128) -> Id<User> {
        Id::new(Uuid::from_u128(n))
    }

    fn email(text: &str) -> Email {
        Email::parse(text).unwrap()
    }

    fn stored(n: u128, address: &str) -> User {
        let hash = PasswordHash::new("hash".into());
        let user = User::register(id(n), email(address), "Ada".parse().unwrap(), Role::User, hash, now());
        User::rehydrate(user.state().clone())
    }

    #[test]
    fn a_refused_command_leaves_nothing_behind() {
        let mut work = Workspace::new(vec![stored(1, "a@x.io")]);
        work.user_mut(id(1)).unwrap().change_email(email("b@x.io"), now());
        assert_eq!(work.holder(&email("a@x.io")), None);
        assert_eq!(work.holder(&email("b@x.io")), Some(id(1)));
        work.discard();
        assert_eq!(work.holder(&email("a@x.io")), Some(id(1)));
        assert_eq!(work.holder(&email("b@x.io")), None);
        let (created, updated) = work.into_changes();
        assert!(created.is_empty() && updated.is_empty());
    }

    #[test]
    fn the_next_command_sees_what_the_last_one_did() {
        let mut work = Workspace::new(vec![stored(1, "a@x.io"), stored(2, "b@x.io")]);
        work.user_mut(id(1)).unwrap().change_email(email("c@x.io"), now());
        assert_eq!(work.merge().len(), 1);
        work.user_mut(id(2)).unwrap().change_email(email("a@x.io"), now());
        work.merge();
        assert_eq!(work.holder(&email("a@x.io")), Some(id(2)));
        assert_eq!(work.holder(&email("b@x.io")), None);
        work.user_mut(id(2)).unwrap().delete(now());
        work.merge();
        assert_eq!(work.user(id(2)).map(User::id), None);
        assert!(work.id_is_taken(id(2)));
        assert_eq!(work.holder(&email("a@x.io")), None);
        let (created, updated) = work.into_changes();
        assert!(created.is_empty());
        assert_eq!(
            updated.iter().map(|(stored, user)| (*stored, user.version())).collect::<Vec<_>>(),
            [(1, 2), (1, 3)]
        );
    }
}
