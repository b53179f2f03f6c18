//! Keeping the directory true: which spokes are connected to other hubs, by the store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_operations::Definition;
use hub_protocol::OperationSpec;
use hub_protocol::ops::hub::Policy;
use hub_storage::{HeldSpoke, RegistrationRow, SpokeRow};

use super::Cluster;
use crate::directory::{Offer, SpokeConnection, SpokeFacts};
use crate::error::put_off;
use crate::hub::Hub;

/// How often everything is looked at without a reason: hints may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// WebSocket close code 1012 of the IANA registry: connect again.
const SERVICE_RESTART: u16 = 1012;

/// Pause after a look that failed.
const RETRY: Duration = Duration::from_millis(250);

impl Cluster {
    pub(super) async fn keep_directory(self, hub: Hub) {
        loop {
            // What asks for a look while one is taken gets another.
            let wait = match self.refresh_all(&hub).await {
                Ok(()) => LOOK_EVERY,
                Err(error) => {
                    put_off(&error, "the spokes of other hubs were not looked at");
                    RETRY
                }
            };
            let _either = tokio::time::timeout(wait, self.inner.stale.notified()).await;
        }
    }

    async fn refresh_all(&self, hub: &Hub) -> Result<(), crate::CoreError> {
        let directory = hub.directory();
        let moment = directory.moment();
        let rows = hub.store().spokes().list().await?;
        let mut offered: HashMap<String, Vec<RegistrationRow>> = HashMap::new();
        for row in hub.store().spokes().registrations().await? {
            offered.entry(row.spoke.clone()).or_default().push(row);
        }
        let known: HashSet<String> = rows.iter().map(|r| r.name.clone()).collect();
        for row in rows {
            let offers = offered.remove(&row.name).unwrap_or_default();
            // A spoke that has come here since must not be taken for the one that the row tells of.
            match directory.turn_since(&row.name, &moment).await {
                Some(_turn) => self.apply(hub, &row, offers),
                None => self.refresh(hub, &row.name).await,
            }
        }
        for spoke in directory.spokes().iter().filter(|s| !s.is_local() && !known.contains(&*s.name)) {
            self.refresh(hub, &spoke.name).await;
        }
        Ok(())
    }

    /// Looks at one spoke.
    pub(crate) async fn refresh(&self, hub: &Hub, name: &str) {
        let _turn = hub.directory().turn(name).await;
        let row = match hub.store().spokes().by_name(name).await {
            Ok(Some(row)) => row,
            Ok(None) => {
                if let Some(gone) = hub.directory().spoke(name).filter(|s| !s.is_local()) {
                    hub.directory().disconnect(&gone);
                }
                return;
            }
            Err(error) => {
                put_off(&error.into(), "a spoke of another hub was not looked at");
                return self.inner.stale.notify_one();
            }
        };
        match hub.store().spokes().registrations_of(row.id).await {
            Ok(offers) => self.apply(hub, &row, offers),
            Err(error) => {
                put_off(&error.into(), "the operations of a spoke were not looked at");
                self.inner.stale.notify_one();
            }
        }
    }

    fn apply(&self, hub: &Hub, row: &SpokeRow, rows: Vec<RegistrationRow>) {
        if row.hub_id == self.inner.me {
            // What is connected here is known better here. Unless all hubs were cut off from the store for longer than
            // a lease, and another one has taken this one for lost: then the spoke has to register again.
            let own = hub.directory().spoke(&row.name).filter(|s| s.is_local() && s.connection == row.connection_id);
            if let Some(own) = own.filter(|_| !row.connected) {
                let reason = "register again".to_owned();
                own.peer.outbox().close(hub_operations::Close { code: SERVICE_RESTART, reason, flush: true });
            }
            return;
        }
        let known = hub.directory().spoke(&row.name);
        if let Some(own) = known.as_ref().filter(|s| s.is_local()) {
            if row.connected && row.connection_id != own.connection {
                self.release_here(hub, &row.name, own.connection);
            }
            return;
        }
        let link = self.link(row.hub_id).filter(|_| row.connected);
        let Some(link) = link else {
            if let Some(gone) = known {
                hub.directory().disconnect(&gone);
            }
            return;
        };
        let same = known.filter(|s| s.connection == row.connection_id && !s.peer.gone().is_cancelled());
        let offers = offers(hub, rows);
        let spoke = same.unwrap_or_else(|| SpokeConnection::at_hub(row.hub_id, facts(row), link.peer.clone()));
        spoke.set_draining(row.draining);
        spoke.heard_row(row.load);
        hub.directory().mirror(&spoke, &offers, row.exposure == "pooled");
    }

    /// Closes connections whose spokes the store has elsewhere by now.
    pub(super) fn let_go(&self, hub: &Hub, held: &[HeldSpoke]) {
        let held: HashSet<_> = held.iter().map(|h| h.connection_id).collect();
        let lost: Vec<Arc<SpokeConnection>> = hub.directory().spokes();
        let lost = lost.into_iter().filter(|s| s.is_local() && !held.contains(&s.connection));
        for spoke in lost {
            // It may just be registering or going, so the store is asked about it alone.
            let (cluster, hub) = (self.clone(), hub.clone());
            hub.clone().tasks().spawn("cluster spoke", async move { cluster.refresh(&hub, &spoke.name).await });
        }
    }
}

fn offers(hub: &Hub, rows: Vec<RegistrationRow>) -> Vec<Offer> {
    let offer = |row: RegistrationRow| {
        let version = semver::Version::parse(&row.version).ok()?;
        // Definitions never change, so one that is known need not be compiled again.
        let known = hub.directory().definition(&row.operation_id, &version);
        let definition = known.or_else(|| {
            let spec = row.spec.parse::<OperationSpec>().ok()?;
            Definition::new(spec).ok().map(Arc::new)
        });
        if definition.is_none() {
            tracing::warn!(operation.id = %row.operation_id, "a stored definition is not readable");
        }
        Some(Offer { definition: definition?, local: row.local.into() })
    };
    rows.into_iter().filter(|row| row.active).filter_map(offer).collect()
}

fn facts(row: &SpokeRow) -> SpokeFacts {
    SpokeFacts {
        id: row.id,
        name: row.name.clone(),
        owner: row.owner.clone(),
        connection: row.connection_id,
        instance: row.instance_id,
        started_at: row.started_at.millis(),
        policy: serde_json::from_value::<Policy>(row.policy.clone().into()).unwrap_or_default(),
        // Kept by the hub that it is connected to.
        max_in_flight: None,
        order: crate::directory::order_of(row.connected_at),
    }
}
