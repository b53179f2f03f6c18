//! What every target must do, as a suite to run in tests. Test support: it panics when a promise is broken.
//!
//! It relies only on what a target across processes can promise too: order per publisher and topic, delivery to
//! subscriptions made before, and counts of what the subscriber's own queue dropped. It does not rely on when a message
//! arrives, on order across topics, or on nothing arriving late.

mod bus_cases;
mod cases;

use std::time::Duration;

use crate::{Delivery, EventTarget, Message, Subscription};

/// Longest wait for something that must happen. Long, as it is only waited for when a promise is broken.
const PATIENCE: Duration = Duration::from_secs(20);

/// The two ends of what is tested: handles of one target, or two targets on one bus as two hubs have them.
#[derive(Clone, Debug)]
pub struct Bus {
    /// Publishes.
    pub publisher: EventTarget,
    /// Subscribes.
    pub subscriber: EventTarget,
}

impl From<EventTarget> for Bus {
    fn from(target: EventTarget) -> Self {
        Self { publisher: target.clone(), subscriber: target }
    }
}

/// Runs all cases, each on a bus of its own that `make` gives for a queue capacity per subscriber.
///
/// Nobody else may publish on that bus (give each its own prefix on a shared server).
///
/// # Panics
/// When the target breaks a promise.
pub async fn run(make: impl AsyncFn(usize) -> Bus) {
    const ROOMY: usize = 4096;
    cases::order_is_kept(make(ROOMY).await).await;
    cases::everyone_gets_the_same_payload(make(ROOMY).await).await;
    cases::payloads_are_any_bytes(make(ROOMY).await).await;
    cases::exact_topics_are_separate(make(ROOMY).await).await;
    cases::patterns_match_prefixes(make(ROOMY).await).await;
    cases::topics_are_plain_text(make(ROOMY).await).await;
    cases::bad_topics_are_refused(make(ROOMY).await).await;
    cases::nobody_listening_is_no_error(make(ROOMY).await).await;
    cases::dropping_unsubscribes(make(ROOMY).await).await;
    cases::a_topic_can_be_subscribed_again(make(ROOMY).await).await;
    cases::lag_is_reported_and_hurts_nobody_else(make(cases::SMALL).await).await;
    cases::publishers_keep_their_order(make(ROOMY).await).await;
    cases::close_ends_everything(make(ROOMY).await).await;
    cases::close_wakes_readers(make(ROOMY).await).await;
}

/// Runs all cases of a [`Bus`](crate::Bus), each on two handles that `make` gives for the bytes of an inbox: clones of
/// one, or two buses on one server as two hubs have them.
///
/// Nobody else may send on them (give each its own prefix on a shared server).
///
/// # Panics
/// When the bus breaks a promise.
pub async fn run_bus(make: impl AsyncFn(usize) -> [crate::Bus; 2]) {
    const ROOMY: usize = crate::DEFAULT_INBOX_BYTES;
    bus_cases::order_is_kept(make(ROOMY).await).await;
    bus_cases::senders_keep_their_order(make(ROOMY).await).await;
    bus_cases::frames_are_any_bytes_up_to_the_limit(make(ROOMY).await).await;
    bus_cases::nobody_there_is_told(make(ROOMY).await).await;
    bus_cases::names_are_separate_and_plain_text(make(ROOMY).await).await;
    bus_cases::a_broadcast_reaches_all(make(ROOMY).await).await;
    bus_cases::a_full_inbox_tells_and_recovers(make(bus_cases::SMALL).await).await;
    bus_cases::bad_names_are_refused(make(ROOMY).await).await;
    bus_cases::close_ends_inboxes(make(ROOMY).await).await;
}

async fn subscribe(target: &EventTarget, topic: &str) -> Subscription {
    within("subscribe", target.subscribe(topic)).await.expect("subscribe")
}

async fn publish(target: &EventTarget, topic: &str, payload: impl Into<bytes::Bytes>) {
    within("publish", target.publish(Message::new(topic, payload))).await.expect("publish");
}

async fn next(subscription: &mut Subscription) -> Option<Delivery> {
    within("a delivery", subscription.recv()).await
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::select! {
        // Not tokio's timeout: it looks at the future once more at the end, which would hide a missing wake-up.
        biased;
        () = tokio::time::sleep(PATIENCE) => panic!("{what} does not come"),
        value = future => value,
    }
}

async fn message(subscription: &mut Subscription) -> Message {
    match next(subscription).await {
        Some(Delivery::Message(message)) => message,
        other => panic!("expected a message on {subscription:?}, not {other:?}"),
    }
}

async fn number(subscription: &mut Subscription) -> u64 {
    parse(&message(subscription).await)
}

fn parse(message: &Message) -> u64 {
    let text = std::str::from_utf8(&message.payload).expect("a number");
    text.parse().expect("a number")
}
