//! The target and the bus on a real Redis server.

mod cluster;
mod outage;
mod refusal;
mod suite;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hub_pubsub::RedisOptions;

/// A certificate for `localhost`, and who issued it.
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub-spoke/tests/fixtures");

/// The URL, for who trusts that issuer.
fn trusted(url: &str) -> String {
    format!("{url}?sslrootcert={FIXTURES}/ca.pem")
}

/// The shared server. Its users keep apart by prefix.
fn shared_url() -> String {
    hub_testkit::servers::redis_url().expect("a Redis server for tests")
}

/// Options with a prefix that nobody else has.
fn options() -> RedisOptions {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    RedisOptions::default().with_prefix(format!("test-{}-{number}:", std::process::id()))
}

/// Long, as it is only waited for when something is broken.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap_or_else(|_| panic!("{what} does not come"))
}
