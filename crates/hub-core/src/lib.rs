//! What the hub does, as a library.
//!
//! **Purpose.** [`Hub`]: the call path ([`Hub::call`]) with its directory of spokes, call tree, record and event log,
//! and the hub's own operations. A server puts sockets around it; a Rust service can embed it.
//!
//! **Non-goals.** No HTTP, no WebSocket, no configuration, no SQL.
//!
//! **Invariants.**
//! - Every call of every face goes through [`Hub::call`]: found, admitted, recorded, dispatched in one fixed order.
//! - What acknowledges an effect is stored before it is answered.
//! - A child call never has more time, money, depth or rights than its parent has left.
//! - Rights on rows (whose call, which topic) are decided here and nowhere else.
//!
//! ```
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
//! use hub_core::{Hub, Principal};
//! use hub_protocol::ops::hub::GetStatus;
//! use hub_storage::{SqliteOptions, Store};
//!
//! let folder = std::env::temp_dir().join(format!("hub-doc-{}", std::process::id()));
//! std::fs::create_dir_all(&folder).unwrap();
//! let store = Store::open_sqlite(&folder.join("hub.db"), SqliteOptions::default()).await.unwrap();
//! let hub = Hub::builder(store).build().await.unwrap();
//! let status = hub.invoke(&Principal::root(), &GetStatus {}).await.unwrap();
//! assert_eq!(status.spokes, 0);
//! hub.shut_down(std::time::Duration::from_secs(5)).await;
//! # std::fs::remove_dir_all(&folder).unwrap();
//! # });
//! ```

mod abort;
mod clients;
mod cluster;
mod ctx;
mod directory;
mod error;
mod hub;
mod key;
pub mod keyring;
mod live;
mod log;
mod offered;
mod ops;
mod recorder;
mod redact;
mod rerun;
mod router;
mod session;
mod sessions;
mod spokes;
mod tasks;
mod tools;
mod topics;
mod vault;

pub use clients::{Connector, Tested, brings_operations, import_spoke, importer, scopes_of};
pub use cluster::{BusState, ClusterOptions};
pub use ctx::Ctx;
pub use error::CoreError;
pub use hub::{FirstKey, Hub, HubBuilder, Load, Settings};
pub use key::{KeyEnd, KeyInfo, Principal};
pub use keyring::{Keyring, KeyringError, KeyringSource};
pub use ops::catalogue;
pub use router::{Called, Caller, Leash};
pub use session::Session;
pub use tools::Tool;
pub use vault::{OpenedClient, agreed, next_version};
