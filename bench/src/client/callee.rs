//! The thin WebSocket callee, the same for hub and relay.

use std::collections::HashSet;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::RegisterSpoke;
use hub_protocol::{AccessControl, OperationSpec, OperationType};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::frame;
use super::socket::{Socket, ready, text_of};

/// Items of streams written between two looks at what has come.
const BURST: usize = 64;

/// The scope that callers need.
pub(crate) const SCOPE: &str = "bench:call";

/// A declared operation: a schema to validate against, and a right to hold.
pub(crate) fn spec(id: &str, kind: OperationType) -> OperationSpec {
    let member = json!({ "type": "object", "additionalProperties": false, "required": ["n"],
        "properties": { "text": { "type": "string", "maxLength": 200 }, "n": { "type": "integer" } } });
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".to_owned(),
        kind,
        title: None,
        description: "Answers a constant.".to_owned(),
        tags: Vec::new(),
        input_schema: member.clone(),
        output_schema: member,
        error_schemas: Vec::new(),
        access_control: AccessControl::scopes(&[SCOPE]),
        meta: None,
    }
    .with_id(id)
}

/// Registers operations on a connection.
pub(crate) async fn register(socket: &mut Socket, name: &str, operations: Vec<OperationSpec>) -> Result<()> {
    let input = RegisterSpoke {
        name: name.to_owned(),
        spoke_type: "compute".to_owned(),
        operations,
        instance_id: uuid::Uuid::new_v4(),
        started_at: 1,
        host_info: None,
        project_id: None,
        version: None,
        exposure: None,
        policy: None,
        max_in_flight: None,
        labels: None,
    };
    let input = serde_json::to_string(&input)?;
    socket.send(Message::text(frame::request_with(0, 0, 0, RegisterSpoke::ID, &input))).await?;
    loop {
        let message = socket.next().await.context("the connection was closed")??;
        if let Some(text) = text_of(&message)? {
            return frame::slot_of_response(text).map(drop);
        }
    }
}

/// What runs on the connection.
#[derive(Default)]
struct Streams {
    /// Those that may send.
    open: HashSet<String>,
    paused: HashSet<String>,
}

/// Answers every call at once, and every subscription with items for as long as it is wanted.
pub(crate) async fn serve(mut socket: Socket, subscriptions: &'static [&'static str]) -> Result<()> {
    let wanted: Vec<String> = subscriptions.iter().map(|id| format!(r#""operationId":"{id}""#)).collect();
    let mut streams = Streams::default();
    loop {
        let mut next = match streams.open.is_empty() {
            true => Some(socket.next().await.context("the connection was closed")??),
            false => ready(&mut socket)?,
        };
        while let Some(message) = next {
            if let Some(text) = text_of(&message)?
                && let Some(answer) = streams.take(text, &wanted)
            {
                socket.feed(Message::text(answer)).await?;
            }
            next = ready(&mut socket)?;
        }
        for id in &streams.open {
            for _ in 0..BURST {
                socket.feed(Message::text(frame::response(id))).await?;
            }
        }
        socket.flush().await?;
        // A stream that always has an item must leave time to others.
        tokio::task::yield_now().await;
    }
}

impl Streams {
    /// Takes one message; `Some` is what is sent for it.
    fn take(&mut self, text: &str, subscriptions: &[String]) -> Option<String> {
        if let Some(id) = frame::id_of_request(text) {
            if subscriptions.iter().any(|wanted| text.contains(wanted.as_str())) {
                self.open.insert(id.to_owned());
                return None;
            }
            return Some(frame::response(id));
        }
        let value: serde_json::Value = serde_json::from_str(text).ok()?;
        let id = value["payload"]["requestId"].as_str()?.to_owned();
        match value["type"].as_str()? {
            "__pause" => drop(self.open.take(&id).map(|id| self.paused.insert(id))),
            "__resume" => drop(self.paused.take(&id).map(|id| self.open.insert(id))),
            "call.aborted" => {
                self.open.remove(&id);
                self.paused.remove(&id);
                let payload = json!({ "requestId": id });
                return Some(json!({ "type": "call.aborted", "id": "", "payload": payload }).to_string());
            }
            _ => {}
        }
        None
    }
}
