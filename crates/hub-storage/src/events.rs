use hub_protocol::{CallId, Json};

use crate::schema::{events, settings};
use crate::store::Backend;
use crate::types::BindId;
use crate::{Stamp, Store, StoreError};

/// An event to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What it is about, for example `call:{id}`.
    pub topic: String,
    /// What happened.
    pub kind: String,
    /// When it happened.
    pub at: Stamp,
    /// More about it.
    pub payload: Json,
    /// Root of the call tree it belongs to.
    pub root: Option<CallId>,
}

/// An event with its position in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Position: 1 or more, growing in commit order, never given twice.
    pub seq: u64,
    /// What it is about.
    pub topic: String,
    /// What happened.
    pub kind: String,
    /// When it happened.
    pub at: Stamp,
    /// More about it.
    pub payload: Json,
    /// Root of the call tree it belongs to.
    pub root: Option<CallId>,
}

/// Verbs on the event log.
#[derive(Debug)]
pub struct Events<'a>(pub(crate) &'a Store);

impl Events<'_> {
    /// Adds events in the given order; returns them with their positions. Once called, it goes on when the future is
    /// dropped.
    ///
    /// # Errors
    /// What the database met.
    pub async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        if events.is_empty() {
            return Ok(Vec::new());
        }
        match &self.0.backend {
            Backend::Sqlite(_) => on_writer!(self.0, append(events)),
            // Grouped there: each transaction holds the one row of positions until it has committed.
            Backend::Postgres(db) => db.append(events).await,
        }
    }

    /// At most `limit` events behind position `after`, ascending, of one call tree or of all.
    ///
    /// # Errors
    /// What the database met.
    pub async fn after(&self, after: u64, root: Option<CallId>, limit: u32) -> Result<Vec<EventRow>, StoreError> {
        on_reader!(self.0, after(after, root, limit))
    }

    /// The highest position ever given, also when that event is trimmed; 0 for none.
    ///
    /// # Errors
    /// What the database met.
    pub async fn last(&self) -> Result<u64, StoreError> {
        on_reader!(self.0, last())
    }

    /// The highest position that retention removed; 0 for none. Every event above it is there.
    ///
    /// # Errors
    /// What the database met.
    pub async fn trimmed_to(&self) -> Result<u64, StoreError> {
        on_reader!(self.0, trimmed_to())
    }
}

/// Setting that holds the highest removed position.
pub(crate) const TRIMMED_TO: &str = "store.events_trimmed_to";

/// Positions are stored signed, as SQL knows no other.
fn position(seq: i64) -> u64 {
    u64::try_from(seq).unwrap_or(0)
}

/// The events at the positions from `first` on.
pub(crate) fn placed(first: u64, events: Vec<NewEvent>) -> Vec<EventRow> {
    let row = |(seq, event): (u64, NewEvent)| {
        let NewEvent { topic, kind, at, payload, root } = event;
        EventRow { seq, topic, kind, at, payload, root }
    };
    (first..).zip(events).map(row).collect()
}

type Columns = (i64, String, String, Stamp, Json, Option<CallId>);

fn row((seq, topic, kind, at, payload, root): Columns) -> EventRow {
    EventRow { seq: position(seq), topic, kind, at, payload, root }
}

backends! {
    use crate::bulk::Bulk;
    use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl};
    use diesel_async::RunQueryDsl;

    pub(crate) async fn append(c: &mut Conn, new: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        c.append_events(new).await
    }

    pub(crate) async fn append_one(c: &mut Conn, event: NewEvent) -> Result<EventRow, StoreError> {
        let written = c.append_events(vec![event]).await?;
        written.into_iter().next().ok_or(StoreError::NotFound { what: "event" })
    }

    pub(crate) async fn after(
        c: &mut Conn,
        after: u64,
        root: Option<CallId>,
        limit: u32,
    ) -> Result<Vec<EventRow>, StoreError> {
        let columns = (events::seq, events::topic, events::kind, events::at, events::payload, events::root);
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let page = events::table.select(columns).filter(events::seq.gt(after)).order(events::seq).limit(limit.into());
        let found = match root {
            None => page.load::<Columns>(c).await?,
            Some(root) => page.filter(events::root.eq(BindId::from(root))).load::<Columns>(c).await?,
        };
        Ok(found.into_iter().map(row).collect())
    }

    pub(super) async fn last(c: &mut Conn) -> Result<u64, StoreError> {
        c.last_position().await
    }

    pub(crate) async fn trimmed_to(c: &mut Conn) -> Result<u64, StoreError> {
        let stored = settings::table.find(TRIMMED_TO).select(settings::value).first::<Json>(c).await.optional()?;
        let parsed = stored.map(|value| value.parse::<u64>()).transpose();
        Ok(parsed.map_err(|error| diesel::result::Error::DeserializationError(error.into()))?.unwrap_or(0))
    }

    /// Removes the oldest events before `cutoff`, at most `chunk`; always a prefix of the log, so that one
    /// position tells a reader whether it missed something.
    pub(crate) async fn trim(c: &mut Conn, cutoff: Stamp, chunk: i64) -> Result<u64, StoreError> {
        // Of two sweeps at once, the later one must not set the position back.
        c.one_at_a_time(TRIMMED_TO).await?;
        let oldest = events::table.select((events::seq, events::at)).order(events::seq).limit(chunk);
        let oldest = oldest.load::<(i64, Stamp)>(c).await?;
        let Some((last, _)) = oldest.into_iter().take_while(|(_, at)| *at < cutoff).last() else {
            return Ok(0);
        };
        let removed = diesel::delete(events::table.filter(events::seq.le(last))).execute(c).await?;
        of::settings::set(c, TRIMMED_TO.to_owned(), serde_json::json!(last).into()).await?;
        Ok(removed as u64)
    }
}
