//! The shortest way through everything: a spoke registers, a client calls, the record shows it.

use anyhow::Result;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_testkit::TestHub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Numbers {
    a: i64,
    b: i64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_registers_and_is_called() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke =
        hub.spoke("adder")
            .spoke_type("compute")
            .query("math.add", "Adds two numbers.", |_, n: Numbers| async move {
                Ok::<i64, hub_protocol::CallError>(n.a + n.b)
            })
            .build()?
            .start()
            .await?;
    let client = hub.client().await?;
    let sum = client.call_raw("math.add", serde_json::json!({"a": 2, "b": 40})).await?;
    assert_eq!(sum.as_str(), "42");
    let wrong = client.call_raw("math.add", serde_json::json!({"a": "2"})).await.unwrap_err();
    assert_eq!(wrong.code, "VALIDATION_ERROR");
    let calls = loop {
        let page = client.call(&ListCalls { operation_id: Some("math.add".into()), ..ListCalls::default() }).await?;
        if page.calls.len() == 2 {
            break page.calls;
        }
    };
    assert_eq!(calls[1].status, CallStatus::Completed);
    assert_eq!(calls[1].spoke.as_deref(), Some("adder"));
    spoke.stop().await?;
    assert!(hub.stop().await.0);
    Ok(())
}
