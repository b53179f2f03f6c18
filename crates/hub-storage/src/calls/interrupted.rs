use std::collections::HashSet;

use hub_protocol::{CallId, HubId, Json};
use serde::Serialize;

use crate::schema::calls;
use crate::types::{BindDoc, BindId};
use crate::{NewEvent, Stamp, Store, StoreError};

/// Most calls that one transaction closes.
const CHUNK: i64 = 500;

/// As the partial index says it.
const LIVE: &str = "status IN ('pending', 'running')";

pub(super) async fn close(store: &Store, hub: Option<HubId>, at: Stamp, error: Json) -> Result<u64, StoreError> {
    let mut total = 0;
    loop {
        let error = error.clone();
        let (found, closed): (u64, u64) = on_writer!(store, close_some(hub, at, error))?;
        total += closed;
        if found < CHUNK as u64 {
            return Ok(total);
        }
    }
}

/// What the event of an interrupted call says.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Failed<'a> {
    call_id: CallId,
    root: CallId,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent: Option<CallId>,
    operation_id: &'a str,
    principal: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    spoke: Option<&'a str>,
    error: &'a Json,
}

#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = calls)]
struct Open {
    call_id: CallId,
    root: CallId,
    parent: Option<CallId>,
    operation_id: String,
    principal: String,
    spoke: Option<String>,
}

impl Open {
    fn failed(&self, at: Stamp, error: &Json) -> Result<NewEvent, StoreError> {
        let payload = Failed {
            call_id: self.call_id,
            root: self.root,
            parent: self.parent,
            operation_id: &self.operation_id,
            principal: &self.principal,
            spoke: self.spoke.as_deref(),
            error,
        };
        let payload =
            Json::from_serialize(&payload).map_err(|error| diesel::result::Error::SerializationError(error.into()))?;
        let (topic, kind) = (format!("call:{}", self.call_id), "failed".to_owned());
        Ok(NewEvent { topic, kind, at, payload, root: Some(self.root) })
    }
}

backends! {
    use crate::bulk::Bulk;
    use diesel::dsl::sql;
    use diesel::prelude::{ExpressionMethods, QueryDsl, SelectableHelper};
    use diesel::sql_types::Bool;
    use diesel_async::RunQueryDsl;

    /// How many live calls were found, and how many of them this transaction closed: the others were closed by
    /// another hub in between.
    pub(super) async fn close_some(
        c: &mut Conn,
        hub: Option<HubId>,
        at: Stamp,
        error: Json,
    ) -> Result<(u64, u64), StoreError> {
        let mut live = calls::table
            .filter(sql::<Bool>(LIVE))
            .order(calls::call_id)
            .limit(CHUNK)
            .select(Open::as_select())
            .into_boxed::<Db>();
        if let Some(hub) = hub {
            live = live.filter(calls::hub_id.eq(BindId::from(hub)));
        }
        let mut live: Vec<Open> = live.load(c).await?;
        let found = live.len() as u64;
        let ids: Vec<BindId> = live.iter().map(|call| call.call_id.into()).collect();
        let still = calls::table.filter(calls::call_id.eq_any(&ids)).filter(sql::<Bool>(LIVE));
        let ended = (
            calls::status.eq("failed"),
            calls::error.eq(BindDoc::from(error.clone())),
            calls::completed_at.eq(Some(at)),
        );
        let closed: Vec<CallId> = diesel::update(still).set(ended).returning(calls::call_id).get_results(c).await?;
        let closed: HashSet<CallId> = closed.into_iter().collect();
        live.retain(|call| closed.contains(&call.call_id));
        // Their idempotency keys stay: whoever asks with one again finds this call, and by it the spoke that may have
        // begun the work.
        let events: Result<Vec<NewEvent>, StoreError> = live.iter().map(|call| call.failed(at, &error)).collect();
        c.append_events(events?).await?;
        Ok((found, live.len() as u64))
    }
}
