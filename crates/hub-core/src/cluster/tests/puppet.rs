//! Another hub, every message of which the test decides.

use std::time::Duration;

use bytes::Bytes;
use hub_protocol::{ConnectionId, Event, HubId, IdStyle, OperationSpec, SpokeId, decode, encode_request};
use hub_pubsub::{Bus, BusDelivery, Inbox};
use hub_storage::{DefinitionRow, HubRow, NewEvent, SpokeRow, Stamp, Store};
use tokio::time::timeout;
use uuid::Uuid;

use super::super::wire::{Ask, Beat, Hint, Kind, Message};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Puppet {
    id: HubId,
    bus: Bus,
    inbox: Inbox,
    epoch: Uuid,
    sent: u64,
}

/// What a hub says to the puppet.
pub(super) enum Said {
    /// Over their link.
    Events(Vec<Event>),
    /// To all.
    Beat(Beat),
}

impl Puppet {
    /// A hub with a lease, linked to another.
    pub(super) async fn linked(bus: &Bus, store: &Store, to: HubId) -> Self {
        let id = HubId::new();
        let inbox = bus.listen(&id.to_string()).await.unwrap();
        let row = HubRow {
            id,
            address: "puppet".into(),
            version: "1.0.0".into(),
            started_at: Stamp::now(),
            draining: false,
            renewed_at: Stamp::now(),
            remaining_ms: 0,
        };
        store.hubs().renew(row, Duration::from_secs(600)).await.unwrap();
        let mut puppet = Self { id, bus: bus.clone(), inbox, epoch: Uuid::new_v4(), sent: 0 };
        puppet.opens(to).await;
        puppet
    }

    /// Asks for the link, until that is agreed to.
    pub(super) async fn opens(&mut self, to: HubId) {
        self.send(to, Kind::Open, &[]).await;
        while self.message().await.expect("the bus is open").kind != Kind::Opened {}
    }

    /// Has a spoke that offers this, as far as the store and the others know.
    pub(super) async fn has_spoke(&self, store: &Store, name: &str, offers: &OperationSpec) {
        let row = SpokeRow {
            id: SpokeId::new(),
            name: name.into(),
            owner: "hub".into(),
            spoke_type: "compute".into(),
            instance_id: Uuid::new_v4(),
            started_at: Stamp::now(),
            connection_id: ConnectionId::new(),
            hub_id: self.id,
            connected: true,
            draining: false,
            version: None,
            project_id: None,
            host_info: None,
            labels: None,
            load: None,
            agents: None,
            exposure: "pooled".into(),
            policy: "least_pending".into(),
            max_in_flight: None,
            connected_at: Stamp::now(),
            disconnected_at: None,
            last_heartbeat_at: None,
        };
        let definition = DefinitionRow {
            operation_id: offers.id(),
            version: offers.version.clone(),
            spec: serde_json::to_value(offers).unwrap().into(),
            local: offers.id(),
        };
        let event = NewEvent {
            topic: format!("spoke:{name}"),
            kind: "connected".into(),
            at: Stamp::now(),
            payload: serde_json::json!({}).into(),
            root: None,
        };
        store.spokes().register(row, vec![definition], event).await.unwrap();
        self.broadcast(Kind::Hint, &Hint::Spoke { name: name.into(), moves: false }).await;
    }

    /// Asks over the link.
    pub(super) async fn ask(&mut self, of: HubId, request: &hub_protocol::CallRequested) {
        let frame = encode_request(request, IdStyle::Empty);
        let message = Message::data(self.id, self.epoch, self.sent, &[frame]);
        self.sent += 1;
        self.bus.send(&of.to_string(), message).await.unwrap();
    }

    /// The next call that a hub gives to the puppet's spoke.
    pub(super) async fn is_asked(&mut self) -> hub_protocol::CallRequested {
        loop {
            let Said::Events(events) = self.hears().await.expect("the bus is open") else { continue };
            for event in events {
                if let Event::Requested(request) = event
                    && let Ok(Ask::Serve { request, .. }) = request.input.parse::<Ask>()
                {
                    return *request;
                }
            }
        }
    }

    /// What is said next, over the link or to all; nothing more once the bus is closed.
    pub(super) async fn hears(&mut self) -> Option<Said> {
        loop {
            let message = self.message().await?;
            match message.kind {
                Kind::Beat => return Some(Said::Beat(message.parse().unwrap())),
                Kind::Data if message.epoch == self.epoch => {
                    let (_, frames) = message.frames().unwrap();
                    return Some(Said::Events(frames.iter().map(|frame| decode(frame).unwrap().0).collect()));
                }
                _ => {}
            }
        }
    }

    /// Goes down in order: all that it took it has answered.
    pub(super) async fn leaves(&self) {
        let beat = Beat {
            address: "puppet".into(),
            version: "1.0.0".into(),
            started_at: 0,
            draining: true,
            gone: true,
            connections: 0,
            spokes: 0,
            calls: 0,
            backlog: 0,
            busy: Vec::new(),
        };
        self.broadcast(Kind::Beat, &beat).await;
    }

    /// Gives its end of the link up, as a hub does that has missed a message.
    pub(super) async fn gives_up(&self, on: HubId) {
        self.send(on, Kind::Reset, &[]).await;
    }

    async fn message(&mut self) -> Option<Message> {
        loop {
            let delivery = timeout(PATIENCE, self.inbox.recv()).await.expect("nothing is said");
            let BusDelivery::Frame(frame) = delivery? else { continue };
            let message = Message::decode(frame).unwrap();
            if message.from != self.id {
                return Some(message);
            }
        }
    }

    async fn broadcast(&self, kind: Kind, body: &impl serde::Serialize) {
        let body = serde_json::to_vec(body).unwrap();
        self.bus.broadcast(Message::encode(kind, self.id, Uuid::nil(), &body)).await.unwrap();
    }

    async fn send(&self, to: HubId, kind: Kind, body: &[u8]) {
        let message: Bytes = Message::encode(kind, self.id, self.epoch, body);
        self.bus.send(&to.to_string(), message).await.unwrap();
    }
}
