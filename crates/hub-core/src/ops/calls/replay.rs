use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hub_operations::Schema;
use hub_protocol::ops::calls::{CallEvent, ReplayCall, ReplayItem, ReplayMode};
use hub_protocol::{CallError, CallId, CallRequested, OperationType, ResponseEnvelope};
use hub_storage::{CallRow, EventRow};

use super::{convert, visible_row};
use crate::CoreError;
use crate::ctx::Ctx;
use crate::rerun::Rerun;

/// Events read at once.
const PAGE: u32 = 500;

/// Slowest and fastest replay in original time.
const SPEED: std::ops::RangeInclusive<f64> = 0.01..=10_000.0;

type Items = BoxStream<'static, Result<ReplayItem, CallError>>;

pub(super) async fn replay(ctx: Ctx, params: ReplayCall) -> Result<Items, CallError> {
    let row = visible_row(&ctx, params.call_id).await?;
    match params.mode {
        ReplayMode::Recorded => recorded(ctx, row.root, params.speed).await,
        ReplayMode::Rerun => {
            let store = ctx.hub().store();
            let (calls, _) = store.calls().tree(row.root).await.map_err(CoreError::from)?;
            Ok(stream::once(rerun(ctx, row.root, calls)).boxed())
        }
    }
}

/// Streams the recorded events, in original time if asked for.
async fn recorded(ctx: Ctx, root: CallId, speed: Option<f64>) -> Result<Items, CallError> {
    if speed.is_some_and(|s| !SPEED.contains(&s)) {
        return Err(CoreError::Invalid(format!("speed must be from {} to {}", SPEED.start(), SPEED.end())).into());
    }
    let trimmed = ctx.hub().log().trimmed_to().await?;
    let rows = read_from(ctx, root, trimmed);
    let mut before: Option<u64> = None;
    Ok(rows
        .then(move |event| {
            let pause = match (&event, before, speed) {
                #[expect(clippy::cast_precision_loss, reason = "pauses between events are far below 2^53 ms")]
                (Ok(event), Some(before), Some(speed)) => event.at.saturating_sub(before) as f64 / 1_000.0 / speed,
                _ => 0.0,
            };
            before = event.as_ref().ok().map(|e| e.at).or(before);
            async move {
                if pause > 0.0 {
                    tokio::time::sleep(Duration::from_secs_f64(pause.min(86_400.0))).await;
                }
                event.map(|event| ReplayItem::Event { event })
            }
        })
        .boxed())
}

/// All events of a tree after a position, page by page.
fn read_from(ctx: Ctx, root: CallId, after: u64) -> BoxStream<'static, Result<CallEvent, CallError>> {
    let pages = stream::try_unfold(Some(after), move |after| {
        let ctx = ctx.clone();
        async move {
            let Some(after) = after else { return Ok(None) };
            let rows = ctx.hub().store().events().after(after, Some(root), PAGE).await.map_err(CoreError::from)?;
            let next = rows.last().map(|r: &EventRow| r.seq).filter(|_| rows.len() == PAGE as usize);
            let events: Vec<Result<CallEvent, CallError>> = rows.iter().filter_map(convert::event).map(Ok).collect();
            Ok::<_, CallError>(Some((stream::iter(events), next)))
        }
    });
    futures_util::TryStreamExt::try_flatten(pages).boxed()
}

/// Runs the root again with its nested calls answered from the record.
async fn rerun(ctx: Ctx, root: CallId, calls: Vec<CallRow>) -> Result<ReplayItem, CallError> {
    let (recorded, nested): (Vec<CallRow>, Vec<CallRow>) = calls.into_iter().partition(|c| c.call_id == root);
    let recorded = recorded.into_iter().next().ok_or(CoreError::NotFound { what: "call" })?;
    if recorded.kind == OperationType::Subscription.as_str() {
        return Err(CoreError::Conflict("a stream can't run again; its record can be replayed".into()).into());
    }
    let nested = nested.into_iter().filter(|c| c.parent == Some(root)).collect();
    let input = recorded.input.clone().filter(|i| !i.as_str().contains(hub_operations::REDACTED));
    let input = input.ok_or_else(|| {
        CoreError::Conflict(
            "the root can't run again: its input was too large or secret and is not in the record".into(),
        )
    })?;
    let rerun = Arc::new(Rerun::new(nested));
    let mut caller = ctx.as_caller().clone();
    caller.rerun = Some(Arc::clone(&rerun));
    let request = CallRequested {
        version: Some(format!("={}", recorded.version)),
        ..CallRequested::new(CallId::new().to_string(), recorded.operation_id.clone(), input)
    };
    let result = ctx.nested(caller, request).await;
    let data = result.and_then(|envelope| {
        ResponseEnvelope::data_of(&envelope)
            .map_err(|_| CoreError::Conflict("the response is not readable".into()).into())
    });
    let call_id = rerun.root().ok_or_else(|| data.clone().err().unwrap_or_else(no_root))?;
    // The record holds the redacted output, so the new one is redacted in the same way before they are compared.
    let schema = ctx.hub().directory().show(&recorded.operation_id);
    let comparable = data.as_ref().map(|d| schema.as_ref().map_or_else(|| d.clone(), |s| redacted(s.output(), d)));
    let divergence = rerun.verdict(&recorded, &comparable.map_err(Clone::clone));
    Ok(ReplayItem::Rerun {
        call_id,
        same: divergence.is_none(),
        divergence,
        output: data.as_ref().ok().cloned(),
        error: data.err(),
    })
}

fn redacted(schema: &Schema, data: &hub_protocol::Json) -> hub_protocol::Json {
    crate::redact::keys_in_json(&schema.redact(data))
}

fn no_root() -> CallError {
    CoreError::Conflict("the root was not admitted again".into()).into()
}
