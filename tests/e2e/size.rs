//! A message that one side would refuse costs its call, never the connection of the other.

use anyhow::Result;
use hub_protocol::{CallError, ErrorCode};
use hub_spoke::ConnectionState;
use hub_testkit::TestHub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Text {
    text: String,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_grows_over_the_limit_on_its_way_does_not_cut_the_spoke_off() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke =
        hub.spoke("sizer")
            .spoke_type("compute")
            .query("demo.len", "Length of a text.", |_, t: Text| async move { Ok::<usize, CallError>(t.text.len()) })
            .query("demo.grow", "A text twice as long.", |_, t: Text| async move {
                Ok::<String, CallError>(t.text.repeat(2))
            })
            .build()?
            .start()
            .await?;
    let mut caller = hub.raw().await?;
    // With the caller's envelope it is just below the limit; the hub adds who calls, and then it is above.
    let limit = hub_protocol::DEFAULT_MESSAGE_LIMIT;
    let mut refused = 0;
    for spare in [140, 180, 220, 260, 300, 400, 600, 1_000] {
        let text = "x".repeat(limit - spare);
        let answer = caller.call(&spare.to_string(), "demo.len", serde_json::json!({ "text": text })).await?;
        if answer["type"] == "call.error" {
            assert_eq!(answer["payload"]["code"], "PAYLOAD_TOO_LARGE", "{answer}");
            refused += 1;
        } else {
            assert_eq!(answer["payload"]["output"]["data"], limit - spare);
        }
    }
    assert!((1..8).contains(&refused), "some fit and some do not: {refused}");
    let client = hub.client().await?;
    let grown = client.call_raw("demo.grow", serde_json::json!({ "text": "x".repeat(limit / 2 + 1) })).await;
    assert!(grown.is_err_and(|e| e.is(ErrorCode::PayloadTooLarge)));
    let again = client.call_raw("demo.len", serde_json::json!({ "text": "still here" })).await?;
    assert_eq!(again.as_str(), "10");
    assert_eq!(*spoke.client().state().borrow(), ConnectionState::Connected { count: 1 });
    spoke.stop().await?;
    Ok(())
}
