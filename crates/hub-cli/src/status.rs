//! `hub status` and `hub whoami`.

use hub_protocol::ops::hub::{GetStatus, HubItem, WhoAmI};

use crate::connect::Cx;
use crate::failure::Result;
use crate::output::{Cell, Paint, Table};
use crate::time::{ago, duration, now_ms, stamp};

pub(crate) async fn status(cx: &Cx) -> Result<()> {
    let hub = cx.connect(false).await?;
    let status = hub.call(&GetStatus {}).await?;
    if cx.out.json {
        return cx.out.document(&status);
    }
    let mut table = Table::facts();
    table.fact("hub", format!("{} ({})", status.hub_id, cx.globals.url));
    let state = if status.draining { ("going down", Paint::Yellow) } else { ("up", Paint::Green) };
    table.fact("state", Cell::new(state.0, state.1));
    table.fact("version", &status.version);
    let up = now_ms().saturating_sub(status.started_at);
    table.fact("started", format!("{} ({} ago)", stamp(status.started_at), duration(up)));
    table.fact("connections", status.connections.to_string());
    table.fact("spokes", status.spokes.to_string());
    table.fact("operations", status.operations.to_string());
    table.fact("calls running", status.calls_in_flight.to_string());
    table.fact("records to write", status.recorder_backlog.to_string());
    table.fact("newest event", status.last_event.to_string());
    cx.out.table(&table)?;
    if status.hubs.is_empty() { Ok(()) } else { cx.out.table(&hubs(&status.hubs)) }
}

fn hubs(hubs: &[HubItem]) -> Table {
    let heads = ["HUB", "ADDRESS", "STATE", ">CONNECTIONS", ">SPOKES", ">CALLS", ">TO WRITE", ">HEARD", "VERSION"];
    let mut table = Table::new(&heads);
    for hub in hubs {
        let state = match (hub.own, hub.draining, hub.linked) {
            (_, true, _) => Cell::new("going down", Paint::Yellow),
            (true, ..) => Cell::new("this hub", Paint::Green),
            (.., true) => Cell::new("linked", Paint::Green),
            (.., false) => Cell::new("not linked", Paint::Red),
        };
        table.row([
            Cell::new(hub.hub_id.to_string(), Paint::Bold),
            (&hub.address).into(),
            state,
            hub.connections.to_string().into(),
            hub.spokes.to_string().into(),
            hub.calls_in_flight.to_string().into(),
            hub.recorder_backlog.to_string().into(),
            format!("{} ago", duration(now_ms().saturating_sub(hub.last_heard_at))).into(),
            (&hub.version).into(),
        ]);
    }
    table
}

pub(crate) async fn whoami(cx: &Cx) -> Result<()> {
    let hub = cx.connect(false).await?;
    let me = hub.call(&WhoAmI {}).await?;
    if cx.out.json {
        return cx.out.document(&me);
    }
    let mut table = Table::facts();
    table.fact("you are", Cell::new(&me.identity.id, Paint::Bold));
    table.fact("scopes", if me.identity.scopes.is_empty() { "none".to_owned() } else { me.identity.scopes.join(", ") });
    for (resource, actions) in me.identity.resources.iter().flatten() {
        table.fact("resource", format!("{resource}: {}", actions.join(", ")));
    }
    let name = me.key_name.as_deref().unwrap_or("-");
    table.fact("key", format!("{name} ({})", me.key.as_deref().unwrap_or("-")));
    if let Some(at) = me.expires_at {
        table.fact("key ends", format!("{} ({})", stamp(at), ago(at, now_ms())));
    }
    cx.out.table(&table)
}
