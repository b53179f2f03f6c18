//! Event targets: live, at-most-once hints that something happened; and the stream operators to work on them.
//!
//! # Purpose
//! [`EventTarget`] carries a [`Message`] to whoever listens right now, in this process or, with another kind of
//! target, in every hub. It exists so that readers look at the store when there is something new instead of polling it.
//! [`Bus`] carries frames from one hub to another by name.
//! [`StreamOperators`] adds what streams of such messages need and the standard stream crates lack.
//!
//! # Non-goals
//! - Durability. What must not be lost is an event row in the store; a message only tells that it is worth a look.
//! - Knowing sessions, rights or the meaning of a payload.
//! - Flow control of calls. Publishers never wait for subscribers here.
//!
//! # Invariants
//! - A message is encoded once; fan-out clones an `Arc` and a `Bytes` per receiver, nothing else.
//! - Each subscription has its own bounded queue ([`DEFAULT_CAPACITY`] messages, [`MAX_QUEUED_BYTES`]). A slow reader
//!   loses its own oldest messages and holds up nobody.
//! - Loss inside the target is never silent: one [`Delivery::Lagged`] with the exact count comes before the next message.
//! - One publisher's messages on one topic arrive in the order they were published.
//! - Nor is loss between processes: one [`Delivery::Interrupted`] comes before what is published after it.
//! - What is published after `subscribe` has returned is received. After `close` nothing is accepted.
//! - Every target passes [`contract::run`], every bus [`contract::run_bus`].
//!
//! # Example
//! ```
//! use hub_pubsub::{Delivery, EventTarget, Message};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), hub_pubsub::TargetError> {
//! let target = EventTarget::memory();
//! let mut tasks = target.subscribe("task:*").await?;
//!
//! target.publish(Message::new("task:42", r#"{"status":"done"}"#)).await?;
//!
//! match tasks.recv().await {
//!     Some(Delivery::Message(message)) => assert_eq!(&*message.topic, "task:42"),
//!     Some(Delivery::Lagged(missed)) => println!("missed {missed}: read the event log"),
//!     Some(Delivery::Interrupted) => println!("missed something, perhaps: read the event log"),
//!     None => println!("the target was closed"),
//! }
//! # Ok(())
//! # }
//! ```

mod bus;
pub mod contract;
mod fanout;
mod memory;
pub mod operators;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod subscription;
mod target;
mod topic;

pub use bus::{Bus, BusDelivery, DEFAULT_INBOX_BYTES, Inbox, MAX_FRAME_BYTES, Sent};
pub use memory::{DEFAULT_CAPACITY, MemoryTarget};
pub use operators::StreamOperators;
pub use queue::MAX_QUEUED_BYTES;
#[cfg(feature = "redis")]
pub use redis::{RedisOptions, RedisTarget};
pub use subscription::Subscription;
pub use target::{Connectivity, Delivery, EventTarget, Message, TargetError};
pub use topic::MAX_TOPIC_BYTES;
