//! Which failed commands a subcommand is about.

use clap::Args;
use clap::builder::PossibleValuesParser;
use uuid::Uuid;

use crate::application::dead_letter::{Letter, Selection, State};
use crate::application::kept::KeptReason;
use crate::interfaces::cli::screen::complain;

/// What narrows a list.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct Filter {
    /// Only those that are kept for this reason
    #[arg(long, value_name = "REASON", value_parser = PossibleValuesParser::new(KeptReason::ALL.map(KeptReason::as_str)))]
    reason: Option<String>,

    /// Only messages of this type, such as user.update.v1
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,

    /// Only those whose body names this user, by id or e-mail address
    #[arg(long, value_name = "ID|EMAIL")]
    user: Option<String>,

    /// Only those that wait to be tried again, or only dead letters
    #[arg(long, value_name = "STATE", value_parser = PossibleValuesParser::new(["waiting", "dead"]))]
    state: Option<String>,
}

impl From<Filter> for Selection {
    fn from(filter: Filter) -> Self {
        Self {
            ids: Vec::new(),
            reason: filter.reason.as_deref().and_then(KeptReason::parse),
            message_type: filter.message_type,
            user: filter.user,
            state: filter.state.map(|state| if state == "dead" { State::Dead } else { State::Waiting }),
        }
    }
}

/// What is to be changed: named one by one, by what they have in common, or all.
#[derive(Debug, Clone, Args)]
pub(super) struct Chosen {
    /// Message ids, or rows' as the list shows them
    #[arg(value_name = "ID", value_parser = row_or_message, required_unless_present_any = ["reason", "message_type", "user", "all"])]
    ids: Vec<Uuid>,

    /// Every dead letter
    #[arg(long, conflicts_with_all = ["ids", "reason", "message_type", "user"])]
    all: bool,

    #[command(flatten)]
    filter: Filter,
}

impl Chosen {
    /// Says which of the named ones are not there, if any.
    pub fn all_found<'a>(&self, letters: impl Iterator<Item = &'a Letter> + Clone) -> bool {
        let is = |id: Uuid, letter: &Letter| {
            letter.id == id
                || letter.message_id == Some(id)
                || letter.properties.message_id.as_deref().is_some_and(|text| Uuid::try_parse(text) == Ok(id))
        };
        let missing: Vec<String> = self
            .ids
            .iter()
            .filter(|id| !letters.clone().any(|letter| is(**id, letter)))
            .map(Uuid::to_string)
            .collect();
        if missing.is_empty() {
            return true;
        }
        let problem = format!("no failed command that fits has this id: {}", missing.join(", "));
        complain(&problem, "see `roster dead list`; what succeeded is gone from it");
        false
    }
}

/// Without ids, only dead letters are meant unless --state says otherwise: what waits is tried again anyway.
impl From<Chosen> for Selection {
    fn from(chosen: Chosen) -> Self {
        let filter = Self::from(chosen.filter);
        let state = filter.state.or_else(|| chosen.ids.is_empty().then_some(State::Dead));
        Self { ids: chosen.ids, state, ..filter }
    }
}

/// A UUID; a row's own id is listed as `row:<uuid>`.
pub(super) fn row_or_message(text: &str) -> Result<Uuid, String> {
    let id = text.strip_prefix("row:").unwrap_or(text);
    Uuid::try_parse(id).map_err(|_| "must be a UUID, or row: and a UUID".to_owned())
}
