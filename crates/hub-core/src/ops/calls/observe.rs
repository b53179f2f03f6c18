use std::collections::HashSet;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::{self, Stream};
use hub_protocol::ops::calls::{CallEvent, CallEventKind, ObserveCalls};
use hub_protocol::{CallError, CallId};
use uuid::Uuid;

use super::{READ, convert, visible_row};
use crate::CoreError;
use crate::ctx::Ctx;
use crate::hub::Hub;
use crate::log::LogItem;

type Items = Pin<Box<dyn Stream<Item = Result<LogItem, CoreError>> + Send>>;

/// What an observer wants to see, and what it has seen.
struct Observer {
    hub: Hub,
    items: Items,
    operation_id: Option<String>,
    principal: Option<String>,
    /// Only what is below this call, when a tree is watched.
    root: Option<CallId>,
    /// Live calls of the watched tree, to know when it has ended.
    open: HashSet<CallId>,
    until_done: bool,
    /// Whether the first call of the tree has ended: before that more may come at any time.
    root_ended: bool,
    /// The call that observes: showing it to itself would make each event beget another.
    own: CallId,
}

/// Reads call events from the log and then live.
pub(super) async fn observe(
    ctx: Ctx,
    params: ObserveCalls,
) -> Result<impl Stream<Item = Result<CallEvent, CallError>> + Send + 'static, CallError> {
    let me = ctx.caller().id.clone();
    let (root, principal) = match params.call_id {
        Some(id) => (Some(root_of(&ctx, id).await?), params.principal),
        None if ctx.caller().has_scope(READ) => (None, params.principal),
        None if params.principal.as_ref().is_some_and(|p| *p != me) => {
            return Err(CoreError::Denied(format!("seeing calls of others needs the scope {READ}")).into());
        }
        None => (None, Some(me)),
    };
    let after = params.after.or(root.map(|_| 0));
    let observer = Observer {
        hub: ctx.hub().clone(),
        items: Box::pin(ctx.hub().log().read(after, root).await?),
        operation_id: params.operation_id,
        principal,
        root,
        open: HashSet::new(),
        until_done: params.until_done == Some(true) && root.is_some(),
        root_ended: false,
        own: ctx.call_id(),
    };
    Ok(stream::unfold(observer, |mut observer| async move {
        let event = observer.next().await?;
        Some((event, observer))
    }))
}

/// The root of a call's tree, from the live tree or the record.
async fn root_of(ctx: &Ctx, id: CallId) -> Result<CallId, CoreError> {
    if let Some(live) = ctx.hub().calls().get(id) {
        let me = &ctx.caller().id;
        let own = live.caller.id == *me || live.caller.chain.contains(me);
        if own || ctx.caller().has_scope(READ) {
            return Ok(live.root);
        }
    }
    Ok(visible_row(ctx, id).await?.root)
}

impl Observer {
    async fn next(&mut self) -> Option<Result<CallEvent, CallError>> {
        loop {
            if self.until_done && self.root_ended && self.open.is_empty() {
                return None;
            }
            match self.items.next().await? {
                Err(error) => return Some(Err(error.into())),
                Ok(LogItem::Gap { from, to }) => {
                    let about = self.root.unwrap_or(CallId(Uuid::nil()));
                    return Some(Ok(convert::gap(to, from, about)));
                }
                Ok(LogItem::Shorter { last, .. }) => {
                    let about = self.root.unwrap_or(CallId(Uuid::nil()));
                    return Some(Ok(convert::gap(last, last + 1, about)));
                }
                Ok(LogItem::CaughtUp) => {
                    // A reader that resumes after the end will see no event that tells of it.
                    if self.until_done && !self.root_ended {
                        self.root_ended = self.is_over().await;
                    }
                }
                Ok(LogItem::Event(row)) => {
                    let Some(event) = convert::event(&row) else { continue };
                    self.note(&event);
                    if self.wants(&event) {
                        return Some(Ok(event));
                    }
                }
            }
        }
    }

    /// Whether the record says that the tree's first call has ended, and nothing of the tree is live.
    async fn is_over(&mut self) -> bool {
        let Some(root) = self.root else { return false };
        let recorded = self.hub.store().calls().get(root).await;
        let ended = recorded.is_ok_and(|row| row.is_some_and(|row| row.completed_at.is_some()));
        ended && self.hub.calls().subtree(root).iter().all(|reached| !reached.live)
    }

    fn note(&mut self, event: &CallEvent) {
        if !self.until_done {
            return;
        }
        match event.kind {
            CallEventKind::Requested => {
                self.open.insert(event.call_id);
            }
            CallEventKind::Completed | CallEventKind::Failed | CallEventKind::Aborted => {
                self.open.remove(&event.call_id);
                self.root_ended |= self.root == Some(event.call_id);
            }
            CallEventKind::Responded | CallEventKind::Gap => {}
        }
    }

    fn wants(&self, event: &CallEvent) -> bool {
        event.call_id != self.own
            && self.operation_id.as_ref().is_none_or(|o| *o == event.operation_id)
            && self.principal.as_ref().is_none_or(|p| *p == event.principal)
    }
}
