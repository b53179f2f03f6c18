//! Connects the hub to its clients: MCP servers and HTTP APIs become operations.
//!
//! Each is a spoke in this process: two ends of the call protocol back to back, one of them a session of the hub. So
//! what it offers is registered, checked, recorded and aborted like any other spoke's.

mod adapt;
mod keep;
mod link;
mod run;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_core::{Connector, OpenedClient, Tested};

pub(crate) use run::run;

/// Tries out clients.
pub(crate) struct Connect {
    /// Whether clients may run programs on this machine.
    pub(crate) programs: bool,
}

impl Connector for Connect {
    fn test<'a>(&'a self, client: &'a OpenedClient) -> BoxFuture<'a, Result<Tested, String>> {
        async move {
            if !hub_core::brings_operations(&client.row) {
                return adapt::reach(client).await;
            }
            let adapter = adapt::Adapter::connect(client, self.programs).await?;
            adapter.reach(client).await?;
            let operations = adapter.registry()?.specs().len() as u64;
            let note = adapter.left_out();
            adapter.close().await;
            Ok(Tested { note, operations })
        }
        .boxed()
    }
}
