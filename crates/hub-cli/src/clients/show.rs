use hub_protocol::ops::clients::{ClientItem, ClientState, TestedClient};
use serde_json::Value;

use crate::output::{Cell, Paint, Table, cut};
use crate::time::{ago, duration};

/// Most characters of a configuration for people; one may hold a whole document.
const MAX_CONFIG: usize = 2_000;

pub(super) fn table(clients: &[ClientItem], now: u64) -> Table {
    let mut table = Table::new(&["CLIENT", "TYPE", "STATE", "SINCE", ">OPERATIONS", "SECRETS", "REASON"]);
    for client in clients {
        table.row([
            Cell::new(&client.name, Paint::Bold),
            kind(client).into(),
            state(client),
            client.state_at.map_or_else(|| "-".to_owned(), |at| ago(at, now)).into(),
            client.operations.to_string().into(),
            secrets(client).into(),
            client.reason.as_deref().unwrap_or("-").into(),
        ]);
    }
    table
}

pub(super) fn facts(client: &ClientItem, now: u64) -> Table {
    let mut table = Table::facts();
    table.fact("client", Cell::new(&client.name, Paint::Bold));
    table.fact("type", kind(client));
    table.fact("state", state(client));
    if let Some(at) = client.state_at {
        table.fact("since", ago(at, now));
    }
    if let Some(reason) = &client.reason {
        table.fact("reason", reason);
    }
    table.fact("operations", client.operations.to_string());
    table.fact("scopes", if client.scopes.is_empty() { "none".to_owned() } else { client.scopes.join(", ") });
    table.fact("secrets", secrets(client));
    table.fact("made", ago(client.created_at, now));
    table.fact("changed", ago(client.updated_at, now));
    table.fact("config", cut(client.config.as_str(), MAX_CONFIG));
    table
}

/// What a test came to, in one line.
pub(super) fn verdict(name: &str, tested: &TestedClient) -> String {
    let reason = tested.reason.as_deref().unwrap_or("no reason is given");
    if !tested.ok {
        return format!("client {name} can't be used: {reason}");
    }
    let note = tested.reason.as_ref().map(|note| format!("; {note}")).unwrap_or_default();
    format!("client {name} can be used: operations: {}, {}{note}", tested.operations, duration(tested.took_ms))
}

fn kind(client: &ClientItem) -> String {
    match serde_json::to_value(client.r#type) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn state(client: &ClientItem) -> Cell {
    match client.state {
        ClientState::Pending => Cell::new("pending", Paint::Yellow),
        ClientState::Ready => Cell::new("ready", Paint::Green),
        ClientState::Degraded => Cell::new("degraded", Paint::Red),
        ClientState::Disabled => Cell::new("disabled", Paint::Dim),
    }
}

fn secrets(client: &ClientItem) -> String {
    let names: Vec<&str> = client.secrets.iter().map(|secret| secret.name.as_str()).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::output::Style;

    fn client(state: &str, reason: Option<&str>) -> ClientItem {
        serde_json::from_value(json!({
            "id": "019aa571-0000-7000-8000-000000000000", "name": "forge", "type": "openapi",
            "config": { "url": "https://forge.example" }, "enabled": true, "scopes": ["imported:forge"],
            "secrets": [{ "name": "token", "keyVersion": 1, "createdAt": 0 }], "state": state, "reason": reason,
            "stateAt": 4_000, "operations": 12, "createdAt": 1_000, "updatedAt": 2_000,
        }))
        .unwrap()
    }

    #[test]
    fn clients_as_a_table() {
        let clients = [client("ready", None), client("degraded", Some("no answer"))];
        assert_eq!(
            table(&clients, 6_000).render(Style { colour: false }, None),
            "CLIENT  TYPE     STATE     SINCE       OPERATIONS  SECRETS  REASON\n\
             forge   openapi  ready     2.00 s ago          12  token    -\n\
             forge   openapi  degraded  2.00 s ago          12  token    no answer\n"
        );
    }

    #[test]
    fn a_long_configuration_is_cut_for_people() {
        let mut client = client("ready", None);
        client.config = json!({ "document": "x".repeat(100_000) }).into();
        let text = facts(&client, 6_000).render(Style { colour: false }, None);
        assert!(text.len() < 3_000 && text.contains("imported:forge"), "{text}");
    }

    #[test]
    fn a_test_is_one_line() {
        let tested = |ok, reason: Option<&str>| TestedClient {
            ok,
            reason: reason.map(str::to_owned),
            operations: 3,
            took_ms: 1_240,
        };
        assert_eq!(verdict("a", &tested(true, None)), "client a can be used: operations: 3, 1.24 s");
        assert_eq!(
            verdict("a", &tested(true, Some("2 are left out"))),
            "client a can be used: operations: 3, 1.24 s; 2 are left out"
        );
        assert_eq!(verdict("a", &tested(false, Some("HTTP 401"))), "client a can't be used: HTTP 401");
    }
}
