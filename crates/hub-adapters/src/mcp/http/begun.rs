use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use crate::mcp::face::first;

/// The revision that the answer to `initialize` agrees on, and the answer with what the SDK cannot say: that the server
/// has tasks as 2025-11-25 has them.
pub(super) async fn read(
    response: Response<BoxBody<Bytes, Infallible>>,
) -> (Response<BoxBody<Bytes, Infallible>>, String) {
    let (parts, body) = response.into_parts();
    // A stream of two events that is already there.
    let Ok(body) = body.collect().await;
    let mut revision = String::new();
    let body = String::from_utf8_lossy(&body.to_bytes())
        .split('\n')
        .map(|line| completed(line, &mut revision))
        .collect::<Vec<_>>();
    (Response::from_parts(parts, Full::from(body.join("\n")).boxed()), revision)
}

/// A line of the answer.
fn completed(line: &str, revision: &mut String) -> String {
    let data = line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok());
    let Some(mut message) = data else { return line.to_owned() };
    let Some(agreed) = message["result"]["protocolVersion"].as_str() else { return line.to_owned() };
    agreed.clone_into(revision);
    if agreed != first::REVISION {
        return line.to_owned();
    }
    message["result"]["capabilities"]["tasks"] = first::capability();
    format!("data: {message}")
}
