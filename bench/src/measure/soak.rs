//! A steady load for a profiler.

use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, share, turn};
use crate::client::socket;
use crate::stats::Window;

/// Calls in flight, and the connections they are spread over.
const LOAD: (usize, usize) = (64, 8);

/// Keeps the hub busy with queries, and says which process to look at.
pub(crate) async fn run(bench: &Bench<'_>, seconds: u64) -> Result<()> {
    let rig = Rig::build(bench).await?;
    let (in_flight, lanes) = LOAD;
    println!("hub-server has pid {}: {in_flight} queries in flight over {lanes} connections", rig.hub.server.pid);
    let window = Window::open((Duration::from_millis(500), Duration::from_secs(seconds)));
    let mut set = JoinSet::new();
    for lane in 0..lanes {
        let socket = socket::connect(rig.hub.server.address, &rig.key).await?;
        let number = u16::try_from(lane)?;
        set.spawn(socket::call(socket, number, share(in_flight, lanes, lane), "bench.look".into(), window));
    }
    let done = turn(set, window, &[rig.hub.server.pid]).await?;
    println!("{:.0} calls/s, {:.1} µs of the hub's processor time each", done.tally.per_second(), done.cpu_micros());
    rig.down().await
}
