use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hub_adapters::mcp::HostTool;
use hub_protocol::OperationSpec;
use hub_protocol::ops::hub::{GetSchemas, ToolOperation};
use hub_spoke::Client;
use tokio::sync::watch;

/// Longest wait for the first list: a host asks for its tools as soon as it has begun.
const FIRST: Duration = Duration::from_secs(2);

/// The operations that are tools of their own, as the hub has last told.
pub(super) struct Tools {
    known: Mutex<Known>,
    /// Lists that were told.
    pub(super) changes: watch::Sender<u64>,
}

#[derive(Default)]
struct Known {
    operations: Vec<ToolOperation>,
    /// By id; read when a host wants them.
    specs: HashMap<String, OperationSpec>,
}

impl Default for Tools {
    fn default() -> Self {
        Self { known: Mutex::default(), changes: watch::Sender::new(0) }
    }
}

impl Tools {
    pub(super) fn are(&self, operations: Vec<ToolOperation>) {
        let mut known = self.lock();
        known.specs.retain(|id, spec| operations.iter().any(|now| now.id == *id && now.version == spec.version));
        known.operations = operations;
        drop(known);
        self.changes.send_modify(|lists| *lists += 1);
    }

    /// They with their specs, in the order of the hub. What has gone meanwhile is left out; the hub is about to tell so.
    pub(super) async fn all(&self, client: &Client) -> Vec<HostTool> {
        let mut changes = self.changes.subscribe();
        drop(tokio::time::timeout(FIRST, changes.wait_for(|lists| *lists > 0)).await);
        let missing: Vec<String> = {
            let known = self.lock();
            let ids = known.operations.iter().map(|operation| &operation.id);
            ids.filter(|id| !known.specs.contains_key(*id)).cloned().collect()
        };
        // One by one: all together may be above what fits into a message.
        let read = join_all(missing.into_iter().map(|id| async move {
            let found = client.call(&GetSchemas { operation_ids: vec![id.clone()] }).await.ok()?;
            Some((id, found.operations.into_iter().next()?))
        }));
        let read = read.await;
        let mut known = self.lock();
        known.specs.extend(read.into_iter().flatten());
        let tool = |operation: &ToolOperation| {
            let spec = known.specs.get(&operation.id)?.clone();
            Some(HostTool { name: operation.name.clone(), spec })
        };
        known.operations.iter().filter_map(tool).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
