use std::collections::HashSet;
use std::fmt;

use hub_protocol::{CallId, HubId, SpokeId};
use uuid::Uuid;

use crate::retention::CALLS_SWEPT_TO;
use crate::schema::{calls, definitions, events, idempotency_keys, registrations, spokes};
use crate::types::BindId;
use crate::{Stamp, Store, StoreError};

/// Rows that are looked at in one go.
const PAGE: i64 = 2_000;
/// Most findings that are told; what is broken a thousand times is broken.
const FINDINGS: usize = 1_000;

/// Something in the store that should not be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A call names a parent that is not there and that retention did not remove.
    ParentMissing {
        /// The call.
        call: CallId,
        /// What it names.
        parent: CallId,
    },
    /// A call names a root that is not there and that retention did not remove.
    RootMissing {
        /// The call.
        call: CallId,
        /// What it names.
        root: CallId,
    },
    /// A call is not ended although its hub has no lease.
    Unfinished {
        /// The call.
        call: CallId,
        /// Its hub.
        hub: HubId,
    },
    /// No event is at these positions, though retention did not remove them.
    EventsMissing {
        /// The first of them.
        first: u64,
        /// The last of them.
        last: u64,
    },
    /// An event is behind the last position given.
    EventAhead {
        /// Its position.
        seq: u64,
        /// The last position given.
        last: u64,
    },
    /// A registration names a spoke or a definition that is not there.
    RegistrationDangles {
        /// The spoke.
        spoke: SpokeId,
        /// Id of the definition.
        definition: Uuid,
    },
    /// An idempotency key has an outcome, but its call is not there and retention did not remove it.
    KeyedCallMissing {
        /// The call.
        call: CallId,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ParentMissing { call, parent } => write!(f, "call {call}: its parent {parent} is missing"),
            Self::RootMissing { call, root } => write!(f, "call {call}: its root {root} is missing"),
            Self::Unfinished { call, hub } => write!(f, "call {call}: not ended, but its hub {hub} has no lease"),
            Self::EventsMissing { first, last } => write!(f, "events {first} to {last} are missing"),
            Self::EventAhead { seq, last } => write!(f, "event {seq} is behind the last position {last}"),
            Self::RegistrationDangles { spoke, definition } => {
                write!(f, "registration of spoke {spoke} and definition {definition}: one of them is missing")
            }
            Self::KeyedCallMissing { call } => write!(f, "idempotency key of call {call}: the call is missing"),
        }
    }
}

/// How far [`Store::verify`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// The table at hand.
    pub table: &'static str,
    /// Its rows that were looked at.
    pub rows: u64,
}

/// What is found so far, and whom to tell.
struct Check<'a, F> {
    store: &'a Store,
    progress: F,
    findings: Vec<Finding>,
    /// Calls that began before it may have been removed by retention.
    swept_to: Option<Stamp>,
}

impl Store {
    /// Looks whether what belongs together is there; at most 1,000 findings. Reads page by page, so it may run while
    /// the store is in use; what is written meanwhile is then looked at in part.
    ///
    /// # Errors
    /// What the database met.
    pub async fn verify(&self, progress: impl FnMut(VerifyProgress) + Send) -> Result<Vec<Finding>, StoreError> {
        let swept_to = self.settings().get(CALLS_SWEPT_TO).await?.and_then(|at| at.parse::<i64>().ok()).map(Stamp);
        let mut check = Check { store: self, progress, findings: Vec::new(), swept_to };
        check.events().await?;
        check.calls().await?;
        check.registrations().await?;
        check.keys().await?;
        check.findings.truncate(FINDINGS);
        Ok(check.findings)
    }
}

impl<F: FnMut(VerifyProgress) + Send> Check<'_, F> {
    fn full(&self) -> bool {
        self.findings.len() >= FINDINGS
    }

    /// Whether retention may have removed the call: what ended before its cutoff also began before it.
    fn may_be_swept(&self, call: CallId) -> bool {
        let began = call.0.get_timestamp().map(|time| time.to_unix());
        let began = began.map(|(seconds, nanos)| {
            i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1_000_000) + i64::from(nanos / 1000)
        });
        self.swept_to.is_some_and(|cutoff| began.is_none_or(|began| began < cutoff.0))
    }

    async fn events(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        // Before the rows: what is written from here on is of no interest.
        let last = store.events().last().await?;
        let (mut at, mut rows) = (store.events().trimmed_to().await?, 0);
        while !self.full() {
            let page: Vec<u64> = on_reader!(store, positions(at))?;
            for seq in &page {
                if *seq != at + 1 && at < last {
                    // Retention may have gone on meanwhile.
                    at = at.max(store.events().trimmed_to().await?);
                }
                if *seq > at + 1 && at < last {
                    self.findings.push(Finding::EventsMissing { first: at + 1, last: (*seq - 1).min(last) });
                }
                at = *seq;
            }
            rows += page.len() as u64;
            (self.progress)(VerifyProgress { table: "events", rows });
            if page.len() < PAGE as usize {
                break;
            }
        }
        let at = at.max(store.events().trimmed_to().await?);
        let ahead = store.events().last().await?;
        if at < last && !self.full() {
            self.findings.push(Finding::EventsMissing { first: at + 1, last });
        } else if at > ahead {
            self.findings.push(Finding::EventAhead { seq: at, last: ahead });
        }
        Ok(())
    }

    async fn calls(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let mut hubs: HashSet<HubId> = store.hubs().list().await?.into_iter().map(|hub| hub.id).collect();
        let (mut after, mut rows) = (None, 0);
        while !self.full() {
            let page: Vec<Kin> = on_reader!(store, kin(after))?;
            let named: HashSet<CallId> =
                page.iter().flat_map(|call| call.parent.into_iter().chain([call.root])).collect();
            let named: Vec<CallId> = named.into_iter().collect();
            let there: HashSet<CallId> = on_reader!(store, existing(named))?.into_iter().collect();
            if page.iter().any(|call| call.is_live() && !hubs.contains(&call.hub_id)) {
                // One that has come since takes its lease before it takes calls.
                hubs.extend(store.hubs().list().await?.into_iter().map(|hub| hub.id));
            }
            for call in &page {
                self.call(call, &there, &hubs);
            }
            rows += page.len() as u64;
            (self.progress)(VerifyProgress { table: "calls", rows });
            after = page.last().map(|call| call.call_id);
            if page.len() < PAGE as usize {
                break;
            }
        }
        Ok(())
    }

    fn call(&mut self, call: &Kin, there: &HashSet<CallId>, hubs: &HashSet<HubId>) {
        let gone = |id: &CallId| !there.contains(id) && !self.may_be_swept(*id);
        let mut found = Vec::new();
        if let Some(parent) = call.parent.filter(&gone) {
            found.push(Finding::ParentMissing { call: call.call_id, parent });
        }
        if gone(&call.root) {
            found.push(Finding::RootMissing { call: call.call_id, root: call.root });
        }
        // Without any lease this is no cluster, and who serves can't be told.
        if call.is_live() && !hubs.is_empty() && !hubs.contains(&call.hub_id) {
            found.push(Finding::Unfinished { call: call.call_id, hub: call.hub_id });
        }
        self.findings.append(&mut found);
    }

    async fn registrations(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let dangling: Vec<(SpokeId, Uuid)> = on_reader!(store, dangling())?;
        let found = dangling.into_iter().map(|(spoke, definition)| Finding::RegistrationDangles { spoke, definition });
        self.findings.extend(found);
        let rows = on_reader!(store, registered())?;
        (self.progress)(VerifyProgress { table: "registrations", rows });
        Ok(())
    }

    async fn keys(&mut self) -> Result<(), StoreError> {
        let store = self.store;
        let (mut after, mut rows) = (None, 0);
        while !self.full() {
            let page: Vec<(Key, CallId)> = on_reader!(store, outcomes(after))?;
            let named: Vec<CallId> = page.iter().map(|(_, call)| *call).collect();
            let there: HashSet<CallId> = on_reader!(store, existing(named))?.into_iter().collect();
            let gone = page.iter().map(|(_, call)| *call).filter(|id| !there.contains(id) && !self.may_be_swept(*id));
            let gone: Vec<Finding> = gone.map(|call| Finding::KeyedCallMissing { call }).collect();
            self.findings.extend(gone);
            rows += page.len() as u64;
            (self.progress)(VerifyProgress { table: "idempotency_keys", rows });
            if page.len() < PAGE as usize {
                break;
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
        Ok(())
    }
}

/// Principal, operation and key.
type Key = (String, String, String);

/// What a call says of others.
#[derive(diesel::Queryable, diesel::Selectable)]
#[diesel(table_name = calls)]
struct Kin {
    call_id: CallId,
    parent: Option<CallId>,
    root: CallId,
    hub_id: HubId,
    status: String,
}

impl Kin {
    fn is_live(&self) -> bool {
        matches!(self.status.as_str(), "pending" | "running")
    }
}

backends! {
    use diesel::dsl::{exists, not, sql};
    use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, QueryDsl, SelectableHelper};
    use diesel::sql_types::{Bool, Text};
    use diesel_async::RunQueryDsl;

    pub(super) async fn positions(c: &mut Conn, after: u64) -> Result<Vec<u64>, StoreError> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let page = events::table.select(events::seq).filter(events::seq.gt(after)).order(events::seq).limit(PAGE);
        Ok(page.load::<i64>(c).await?.into_iter().map(i64::unsigned_abs).collect())
    }

    pub(super) async fn kin(c: &mut Conn, after: Option<CallId>) -> Result<Vec<Kin>, StoreError> {
        let mut page = calls::table.select(Kin::as_select()).order(calls::call_id).limit(PAGE).into_boxed::<Db>();
        if let Some(after) = after {
            page = page.filter(calls::call_id.gt(BindId::from(after)));
        }
        Ok(page.load(c).await?)
    }

    pub(super) async fn existing(c: &mut Conn, ids: Vec<CallId>) -> Result<Vec<CallId>, StoreError> {
        let ids: Vec<BindId> = ids.into_iter().map(BindId::from).collect();
        Ok(calls::table.filter(calls::call_id.eq_any(&ids)).select(calls::call_id).load(c).await?)
    }

    pub(super) async fn registered(c: &mut Conn) -> Result<u64, StoreError> {
        let count: i64 = registrations::table.count().get_result(c).await?;
        Ok(count.try_into().unwrap_or(0))
    }

    pub(super) async fn dangling(c: &mut Conn) -> Result<Vec<(SpokeId, Uuid)>, StoreError> {
        let spoke = spokes::table.filter(spokes::id.eq(registrations::spoke_id)).select(spokes::id);
        let definition =
            definitions::table.filter(definitions::id.eq(registrations::definition_id)).select(definitions::id);
        let page = registrations::table
            .filter(not(exists(spoke)).or(not(exists(definition))))
            .order((registrations::spoke_id, registrations::definition_id))
            .limit(FINDINGS as i64)
            .select((registrations::spoke_id, registrations::definition_id));
        Ok(page.load(c).await?)
    }

    pub(super) async fn outcomes(c: &mut Conn, after: Option<Key>) -> Result<Vec<(Key, CallId)>, StoreError> {
        let by = (idempotency_keys::principal, idempotency_keys::operation_id, idempotency_keys::key);
        let mut page = idempotency_keys::table
            .filter(idempotency_keys::outcome.is_not_null())
            .select((by, idempotency_keys::call_id))
            .order(by)
            .limit(PAGE)
            .into_boxed::<Db>();
        if let Some((principal, operation_id, key)) = after {
            let behind = sql::<Bool>("(principal, operation_id, key) > (").bind::<Text, _>(principal).sql(", ");
            let behind = behind.bind::<Text, _>(operation_id).sql(", ").bind::<Text, _>(key).sql(")");
            page = page.filter(behind);
        }
        Ok(page.load(c).await?)
    }
}
