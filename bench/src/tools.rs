//! An MCP server over standard input and output that has many tools, to be imported.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What makes this program an MCP server.
pub(crate) const COMMAND: &str = "tools-child";

/// Answers until the input ends.
pub(crate) fn serve() -> Result<()> {
    let count: usize = std::env::args().nth(2).context("how many tools")?.parse()?;
    let tools: Vec<Value> = (0..count).map(tool).collect();
    for line in std::io::stdin().lines() {
        let message: Value = serde_json::from_str(&line?)?;
        let result = match message["method"].as_str() {
            Some("initialize") => json!({ "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": { "tools": {} }, "serverInfo": { "name": "bench", "version": "1.0.0" } }),
            Some("tools/list") => json!({ "tools": tools }),
            _ => json!({}),
        };
        if message.get("id").is_some() {
            let answer = json!({ "jsonrpc": "2.0", "id": message["id"], "result": result });
            writeln!(std::io::stdout(), "{answer}")?;
        }
    }
    Ok(())
}

fn tool(number: usize) -> Value {
    json!({
        "name": format!("change_thing_{number}"),
        "description": format!("Changes thing {number} in the fields that are given; the others stay as they are."),
        "inputSchema": { "type": "object", "required": ["id"], "properties": {
            "id": { "type": "string", "description": "Which one." },
            "name": { "type": "string", "maxLength": 100 },
            "count": { "type": "integer", "minimum": 0 },
        } },
        "outputSchema": { "type": "object", "properties": {
            "id": { "type": "string" }, "name": { "type": "string" }, "changedAt": { "type": "integer" },
        } },
    })
}
