use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hub_protocol::ops::hub::ListSpokes;

use crate::TestHub;

/// Longest wait for anything that a test waits for.
const LONGEST: Duration = Duration::from_secs(15);

/// Asks again and again until there is an answer, for at most 15 s.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let until = Instant::now() + LONGEST;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > until {
            bail!("not within {LONGEST:?}: {what}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl TestHub {
    /// Waits until no call is live and no spoke has one in flight: nothing has leaked.
    pub async fn settled(&self) -> Result<()> {
        let client = self.client().await?;
        eventually("no call is left in the hub or on a spoke", || async {
            let live = self.hub().status().await?.calls_in_flight;
            let spokes = client.call(&ListSpokes::default()).await?.spokes;
            Ok((live == 0 && spokes.iter().all(|s| s.in_flight == 0)).then_some(()))
        })
        .await
    }
}
