//! Up to which id no batch can turn up any more in the outbox, so that the relay need not begin each read at rows that
//! it has long deleted: while a transaction is open anywhere, those stay, and each read would pass over all of them.

use std::collections::HashSet;

use sqlx::postgres::PgConnection;

use crate::application::error::Failure;

use super::loan::answered;

/// A batch takes its id, the next one of the sequence, in the statement that writes its row, so that whoever has taken
/// one and not ended yet holds the lock which writing the table takes. Ids that were given out before a look at those locks belong to those who
/// were seen there or have ended: once they have ended too, the next snapshot shows all that ever will be.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// The last id that was given out by the last look, or before it.
    issued: i64,
    /// An id, and who may still come with it or a lower one.
    awaited: Option<(i64, HashSet<String>)>,
    reached: i64,
}

impl Horizon {
    /// Looks who writes, once more. It trails by two looks, and by who takes long.
    pub async fn look(&mut self, session: &mut PgConnection) -> Result<i64, Failure> {
        let query = sqlx::query!(
            r#"select
                (select case when is_called then last_value else last_value - 1 end from batch_ids) as "issued!",
                array(
                    select virtualtransaction from pg_locks
                    where locktype = 'relation' and mode = 'RowExclusiveLock' and relation = 'outbox'::regclass
                        and database = (select oid from pg_database where datname = current_database())
                        and pid is distinct from pg_backend_pid()
                ) as "writers!: Vec<String>""#
        );
        let seen = answered(query.fetch_one(session)).await?;
        Ok(self.seen(seen.issued, seen.writers.into_iter().collect()))
    }

    /// The two are seen in any order: so it is the id of the look before that was surely given out first.
    fn seen(&mut self, issued: i64, writers: HashSet<String>) -> i64 {
        if issued < self.issued {
            // An operator has set the sequence back.
            *self = Self::default();
        }
        if let Some((id, _)) = self.awaited.take_if(|(_, awaited)| awaited.is_disjoint(&writers)) {
            self.reached = id;
        }
        self.awaited.get_or_insert((self.issued, writers));
        self.issued = issued;
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(names: &[&str]) -> HashSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn it_moves_on_while_everybody_ends() {
        let mut horizon = Horizon::default();
        let reached: Vec<i64> = [10, 20, 30, 40]
            .into_iter()
            .map(|issued| horizon.seen(issued, writers(&[&format!("3/{issued}")])))
            .collect();
        assert_eq!(reached, [0, 0, 10, 20]);
    }

    #[test]
    fn it_waits_for_who_was_writing_when_the_id_had_been_given_out() {
        let mut horizon = Horizon::default();
        horizon.seen(10, writers(&[]));
        horizon.seen(20, writers(&["3/1", "4/1"]));
        assert_eq!(horizon.seen(30, writers(&["4/1", "3/2"])), 0);
        assert_eq!(horizon.seen(40, writers(&["4/1"])), 0);
        // Who came later is not waited for.
        assert_eq!(horizon.seen(50, writers(&["3/3"])), 10);
        assert_eq!(horizon.seen(60, writers(&[])), 40);
    }

    #[test]
    fn ids_that_are_given_out_again_are_waited_for_again() {
        let mut horizon = Horizon::default();
        for issued in [10, 20, 30] {
            horizon.seen(issued, writers(&[]));
        }
        assert_eq!(horizon.reached, 10);
        let reached = [5, 6, 7].map(|issued| horizon.seen(issued, writers(&[])));
        assert_eq!(reached, [0, 0, 5]);
    }
}
