use std::collections::BTreeMap;

use crate::schema::calls;
use crate::{Stamp, StatRow, Store, StoreError};

/// Most ended calls whose durations are looked at.
const DURATIONS: i64 = 100_000;

/// Calls per operation and status: count and cost.
type Count = (String, String, i64, i64);
/// Operation, start and end of a call.
type Span = (String, Stamp, Option<Stamp>);

pub(super) async fn stats(
    store: &Store,
    since: Stamp,
    operation_id: Option<String>,
) -> Result<Vec<StatRow>, StoreError> {
    let (counts, spans) = on_reader!(store, figures(since, operation_id))?;
    let mut durations: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (operation, started_at, completed_at) in spans {
        let micros = completed_at.map_or(0, |end| end.0.saturating_sub(started_at.0));
        durations.entry(operation).or_default().push(micros);
    }
    let mut rows: BTreeMap<String, StatRow> = BTreeMap::new();
    for (operation, status, calls, cost) in counts {
        let row = rows.entry(operation).or_insert_with_key(|operation| empty(operation));
        add(row, &status, calls.unsigned_abs(), cost);
    }
    for (operation, mut spans) in durations {
        if let Some(row) = rows.get_mut(&operation) {
            spans.sort_unstable();
            (row.p50_ms, row.p99_ms) = (percentile(&spans, 50), percentile(&spans, 99));
        }
    }
    Ok(rows.into_values().collect())
}

fn empty(operation: &str) -> StatRow {
    StatRow {
        operation_id: operation.to_owned(),
        calls: 0,
        live: 0,
        completed: 0,
        failed: 0,
        aborted: 0,
        p50_ms: 0.0,
        p99_ms: 0.0,
        cost: 0,
    }
}

fn add(row: &mut StatRow, status: &str, calls: u64, cost: i64) {
    row.calls += calls;
    row.cost = row.cost.saturating_add(cost);
    match status {
        "completed" => row.completed += calls,
        "failed" => row.failed += calls,
        "aborted" => row.aborted += calls,
        _ => row.live += calls,
    }
}

/// Nearest rank, in milliseconds, of sorted microseconds.
fn percentile(sorted: &[i64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map_or(0.0, |micros| *micros as f64 / 1000.0)
}

backends! {
    use crate::bulk::Bulk;
    use diesel::dsl::sql;
    use diesel::prelude::{ExpressionMethods, QueryDsl};
    use diesel::sql_types::{BigInt, Bool, Text};
    use diesel_async::{AsyncConnection, RunQueryDsl};

    pub(super) async fn figures(
        c: &mut Conn,
        since: Stamp,
        operation_id: Option<String>,
    ) -> Result<(Vec<Count>, Vec<Span>), StoreError> {
        let mut counts = calls::table
            .group_by(sql::<Text>(&format!("{UNINDEXED}operation_id, status")))
            .select((
                sql::<Text>("operation_id"),
                sql::<Text>("status"),
                sql::<BigInt>("count(*)"),
                // The cast is for backends whose sum of integers is a decimal.
                sql::<BigInt>("CAST(sum(cost) AS BIGINT)"),
            ))
            .filter(calls::started_at.ge(since))
            .into_boxed::<Db>();
        let mut spans = calls::table
            .select((calls::operation_id, calls::started_at, calls::completed_at))
            .filter(calls::started_at.ge(since))
            .filter(calls::completed_at.is_not_null())
            .order(calls::started_at.desc())
            .limit(DURATIONS)
            .into_boxed::<Db>();
        if let Some(operation_id) = operation_id {
            // By time, not by operation: what is asked for is the recent past of a long history.
            let only = format!("{UNINDEXED}operation_id = ");
            counts = counts.filter(sql::<Bool>(&only).bind::<Text, _>(operation_id.clone()));
            spans = spans.filter(sql::<Bool>(&only).bind::<Text, _>(operation_id));
        }
        c.transaction(async move |c| {
            c.as_of_one_moment().await?;
            Ok((counts.load::<Count>(c).await?, spans.load::<Span>(c).await?))
        })
        .await
    }
}
