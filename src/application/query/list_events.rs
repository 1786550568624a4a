//! `event.list.v1`: the events of one subject, so that a subscriber that missed some catches up.

use schemars::JsonSchema;
use serde::Serialize;
use uuid::Uuid;

use super::{NoAnswer, Query};
use crate::application::actor::Access;
use crate::application::dto::{EventPage, EventView, Reply};
use crate::application::error::Detail;
use crate::application::fields::Fields;
use crate::application::message::Message;
use crate::application::ports::ReadModel;

const DEFAULT_LIMIT: i64 = 100;
const MAX_LIMIT: i64 = 500;

/// Asks for a subject's events in the order of their sequence.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListEvents {
    /// The id of a user.
    pub subject: Uuid,
    /// Only events with a higher sequence; 0 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub after_sequence: Option<i64>,
    /// 100 if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 500))]
    pub limit: Option<i64>,
}

/// What [`ReadModel::events`] is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventFilter {
    pub subject: Uuid,
    pub after_sequence: i64,
    pub limit: i64,
}

impl Message for ListEvents {
    const NAME: &'static str = "event.list.v1";
    type Data = Vec<EventView>;
    type Meta = EventPage;

    fn read(mut fields: Fields) -> Result<Self, Vec<Detail>> {
        let subject = fields.uuid("subject");
        let subject = fields.required("subject", subject);
        let after_sequence = fields.integer("after_sequence", 0..=i64::MAX);
        let limit = fields.integer("limit", 1..=MAX_LIMIT);
        let payload =
            (|| Some(Self { subject: subject?, after_sequence: after_sequence.ok()?, limit: limit.ok()? }))();
        fields.finish(payload)
    }
}

impl Query for ListEvents {
    const ACCESS: Access = Access::AdminOrReader;

    async fn answer(self, read: &dyn ReadModel) -> Result<Reply<Vec<EventView>, EventPage>, NoAnswer> {
        let filter = EventFilter {
            subject: self.subject,
            after_sequence: self.after_sequence.unwrap_or(0),
            limit: self.limit.unwrap_or(DEFAULT_LIMIT),
        };
        let (data, meta) = read.events(&filter).await?;
        Ok(Reply { data, meta: Some(meta) })
    }
}
