//! `hub spokes`.

use clap::Args;
use hub_protocol::ops::hub::{GetStatus, HubItem, ListSpokes, SpokeItem, SpokeStatus};

use crate::connect::Cx;
use crate::failure::Result;
use crate::output::{Cell, Paint, Table};
use crate::time::{ago, now_ms};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hub spokes               those that are connected
  hub spokes --all         and those that were
  hub spokes --json | jq -r '.spokes[] | select(.name == \"laptop\") | .operations[]'")]
pub(crate) struct SpokesArgs {
    /// Also spokes that are not connected.
    #[arg(long, short)]
    all: bool,
}

pub(crate) async fn run(cx: &Cx, args: SpokesArgs) -> Result<()> {
    let hub = cx.connect(false).await?;
    let reply = hub.call(&ListSpokes { connected: (!args.all).then_some(true) }).await?;
    if cx.out.json {
        return cx.out.document(&reply);
    }
    let hubs = hub.call(&GetStatus {}).await?.hubs;
    let empty =
        if args.all { "no spoke has ever connected" } else { "no spoke is connected; --all shows those that were" };
    cx.out.list(&table(&reply.spokes, &hubs, now_ms()), empty)
}

/// Where several hubs may share the spokes, also which of them has or had each.
fn table(spokes: &[SpokeItem], hubs: &[HubItem], now: u64) -> Table {
    let heads = ["NAME", "TYPE", "STATUS", ">RUNNING", ">LOAD", ">OPERATIONS", "SINCE", "HUB", "VERSION"];
    let shown = |head: &&str| *head != "HUB" || !hubs.is_empty();
    let mut table = Table::new(&heads.into_iter().filter(shown).collect::<Vec<_>>());
    for spoke in spokes {
        let (status, since) = match spoke.status {
            SpokeStatus::Connected if spoke.draining => {
                (Cell::new("draining", Paint::Yellow), Some(spoke.connected_at))
            }
            SpokeStatus::Connected => (Cell::new("connected", Paint::Green), Some(spoke.connected_at)),
            SpokeStatus::Disconnected => (Cell::new("disconnected", Paint::Dim), spoke.disconnected_at),
        };
        let home = hubs.iter().find(|hub| hub.hub_id == spoke.hub_id);
        let told = home.is_none_or(|hub| hub.linked);
        let home = home.map_or_else(|| spoke.hub_id.to_string(), |hub| hub.address.clone());
        let cells = [
            Cell::new(&spoke.name, Paint::Bold),
            (&spoke.spoke_type).into(),
            status,
            if told { spoke.in_flight.to_string() } else { "-".to_owned() }.into(),
            spoke.load.map_or_else(|| "-".to_owned(), |load| format!("{load:.1}")).into(),
            spoke.operations.len().to_string().into(),
            since.map_or_else(|| "-".to_owned(), |since| ago(since, now)).into(),
            home.into(),
            spoke.version.as_deref().unwrap_or("-").into(),
        ];
        table.row(heads.iter().zip(cells).filter(|(head, _)| shown(head)).map(|(_, cell)| cell));
    }
    table
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Style;

    #[test]
    fn spokes_as_a_table() {
        let spoke = |name: &str, status: &str| {
            serde_json::from_value::<SpokeItem>(json!({
                "spokeId": "019aa571-0000-7000-8000-000000000000", "name": name, "spokeType": "dev-env",
                "status": status, "draining": false, "instanceId": "019aa571-0000-7000-8000-000000000000",
                "hubId": "019aa571-0000-7000-8000-000000000000",
                "operations": ["a.b"], "inFlight": 3, "load": 0.25, "connectedAt": 1000, "disconnectedAt": 4000,
            }))
            .unwrap()
        };
        let spokes = [spoke("laptop", "connected"), spoke("gpu", "disconnected")];
        assert_eq!(
            table(&spokes, &[], 6_000).render(Style { colour: false }, None),
            "NAME    TYPE     STATUS        RUNNING  LOAD  OPERATIONS  SINCE       VERSION\n\
             laptop  dev-env  connected           3   0.2           1  5.00 s ago  -\n\
             gpu     dev-env  disconnected        3   0.2           1  2.00 s ago  -\n"
        );
        let hub = |id: &str, linked: bool| {
            let (address, version) = ("http://10.0.0.5:3300", "0.1.0");
            serde_json::from_value::<HubItem>(json!({
                "hubId": id, "address": address, "version": version, "startedAt": 0, "lastHeardAt": 0, "own": false,
                "linked": linked, "draining": false, "connections": 1, "spokes": 1, "callsInFlight": 0, "recorderBacklog": 0,
            }))
            .unwrap()
        };
        let text = |id: &str, linked: bool| {
            table(&spokes[..1], &[hub(id, linked)], 6_000).render(Style { colour: false }, None)
        };
        let known = text("019aa571-0000-7000-8000-000000000000", true);
        assert!(known.contains("SINCE       HUB                   VERSION\n"), "{known}");
        assert!(known.ends_with("5.00 s ago  http://10.0.0.5:3300  -\n"), "{known}");
        let unheard = text("019aa571-0000-7000-8000-000000000000", false);
        assert!(
            unheard.ends_with("connected        -   0.2           1  5.00 s ago  http://10.0.0.5:3300  -\n"),
            "{unheard}"
        );
        let gone = text("019aa571-0000-7000-8000-000000000001", true);
        assert!(gone.ends_with("5.00 s ago  019aa571-0000-7000-8000-000000000000  -\n"), "{gone}");
    }
}
