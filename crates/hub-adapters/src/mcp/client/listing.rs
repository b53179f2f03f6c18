//! Reads a server's list of tools.

use std::sync::Arc;

use hub_operations::Scrubber;
use rmcp::model::{ListToolsRequest, PaginatedRequestParams, ServerResult, Tool};
use rmcp::{Peer, RoleClient};
use serde_json::Value;

use super::tools::{Imported, Listed};
use super::{McpError, McpOptions, reply};
use crate::left_out;

/// Pages of a list of tools.
const PAGES: usize = 100;

/// What a server lists, and what of it can't be offered.
pub(super) type Found = (Vec<Imported>, Vec<String>);

/// All tools, a page at a time; one that is malformed is left out and not the whole list.
pub(super) async fn read(
    peer: &Peer<RoleClient>,
    options: &McpOptions,
    secrets: &Arc<Scrubber>,
) -> Result<Found, McpError> {
    let info = peer.peer_info();
    if info.as_ref().is_some_and(|info| info.capabilities.tools.is_none()) {
        return Ok(Found::default());
    }
    let fails = |reason: &str| McpError::Listing { name: options.name.clone(), reason: reason.to_owned() };
    let (mut listed, mut cursor, mut pages) = (Listed::default(), None, 0);
    loop {
        if pages == PAGES {
            listed.left_out.push(format!("all tools after the first {PAGES} pages"));
            break;
        }
        pages += 1;
        let page = PaginatedRequestParams::default().with_cursor(cursor.clone());
        let answer = peer.send_request(ListToolsRequest::with_param(page).into()).await;
        let next = match answer.map_err(|error| fails(&reply::failed(&error, true).message))? {
            ServerResult::ListToolsResult(page) => {
                page.tools.into_iter().for_each(|tool| listed.add(Ok(tool)));
                Some(page.next_cursor)
            }
            ServerResult::CustomResult(page) => salvage(&page.0, &mut listed),
            _ => None,
        };
        let next = next.ok_or_else(|| fails("the answer is not a list of tools"))?;
        if next.is_none() || listed.is_full() {
            listed.more |= next.is_some();
            break;
        }
        if next == cursor {
            listed.left_out.push("what follows a page that names itself as the next one".to_owned());
            break;
        }
        cursor = next;
    }
    let version = info.and_then(|info| info.server_info.as_ref().map(|server| server.version.clone()));
    let (own, secrets) = (options.clone(), Arc::clone(secrets));
    let import = tokio::task::spawn_blocking(move || listed.import(&own, version.as_deref(), &secrets));
    let (tools, left_out) = import.await.map_err(|error| fails(&error.to_string()))?;
    if let Some(left_out) = left_out::summary(&left_out) {
        tracing::warn!(mcp.client = options.name, left_out, "not all tools of an MCP server can be offered");
    }
    Ok((tools, left_out))
}

/// Adds what can be read of a page; answers where the next one is, or `None` when it is no page.
fn salvage(page: &Value, listed: &mut Listed) -> Option<Option<String>> {
    for one in page.get("tools")?.as_array()? {
        let name = one.get("name").and_then(Value::as_str);
        listed.add(serde_json::from_value::<Tool>(one.clone()).map_err(|error| (name, error)));
    }
    Some(page.get("nextCursor").and_then(Value::as_str).map(str::to_owned))
}
