//! The target and the bus between processes that use one Redis server.

mod bus;
mod cluster;
mod health;
mod link;
mod place;
mod sender;
mod sentinel;
mod settings;
mod wanted;

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::fanout::Fanout;
use crate::topic::{self, Pattern};
use crate::{Connectivity, Message, Subscription, TargetError};

pub(crate) use bus::{Listening, RedisBus};
use health::Health;
use link::{Event, Link};
use sender::Sender;
pub use settings::RedisOptions;
use settings::Settings;
use wanted::Name;

/// Begins the channels of topics, after the options' prefix.
const TOPIC: &str = "t:";
/// The channel on which a hub says that it failed to publish something.
const LOST: &str = "lost";

/// See [`EventTarget::redis`](crate::EventTarget::redis).
#[derive(Clone)]
pub struct RedisTarget {
    inner: Arc<Inner>,
}

struct Inner {
    settings: Settings,
    fanout: Arc<Fanout>,
    /// Two connections, so that a burst of messages to this process does not hold up the answers to its own.
    subscriptions: Arc<Link>,
    publisher: Sender,
    health: Health,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.fanout.close();
        // Subscriptions that outlive the target hold it too.
        self.subscriptions.stop();
    }
}

impl RedisTarget {
    pub(crate) fn new(url: &str, options: crate::RedisOptions) -> Result<Self, TargetError> {
        let settings = Settings::new(url, options)?;
        let fanout = Arc::<Fanout>::default();
        let lost = settings.channel(LOST, "");
        let subscriptions = Arc::new(Link::start("events", &settings, listener(&settings, fanout.clone())));
        subscriptions.want(&Name::Channel(lost.as_str().into()));
        let publisher = Sender::start("publish", &settings, Some(lost));
        let health = Health::start([subscriptions.state(), publisher.link().state()]);
        Ok(Self { inner: Arc::new(Inner { settings, fanout, subscriptions, publisher, health }) })
    }

    pub(crate) async fn publish(&self, message: Message) -> Result<(), TargetError> {
        topic::check(&message.topic)?;
        let Inner { fanout, publisher, settings, .. } = &*self.inner;
        if fanout.is_closed() {
            return Err(TargetError::Closed);
        }
        if publisher.link().away().is_some() {
            publisher.failed();
            // Looked at again, as the server may have come back before that was noted.
            if let Some(reason) = publisher.link().away() {
                // Certainly not sent, so this process can have it without having it twice.
                fanout.publish(&message)?;
                return Err(TargetError::Unavailable(reason));
            }
        }
        let sent = publisher.put(settings.channel(TOPIC, &message.topic), message.payload).await?;
        sent.await.map_err(|_| TargetError::Closed)?.map(drop)
    }

    pub(crate) async fn subscribe(&self, topic: &str) -> Result<Subscription, TargetError> {
        let pattern = Pattern::parse(topic)?;
        let Inner { fanout, subscriptions, settings, .. } = &*self.inner;
        let queue = fanout.subscribe(&pattern, settings.options.capacity)?;
        let name = name_of(settings, &pattern);
        // From here on, dropping the future undoes both.
        let watched = Watched { name: name.clone(), link: subscriptions.clone() };
        let subscription = Subscription::new(queue.clone(), pattern, fanout).watched(watched);
        let generation = subscriptions.subscribe(&name).await;
        queue.begin();
        if subscriptions.generation() != generation {
            queue.interrupt();
        }
        if fanout.is_closed() {
            return Err(TargetError::Closed);
        }
        Ok(subscription)
    }

    pub(crate) fn close(&self) {
        self.inner.fanout.close();
        self.inner.subscriptions.stop();
        self.inner.publisher.stop();
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.inner.fanout.subscriptions()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.inner.health.now() == Connectivity::Connected
    }

    pub(crate) async fn check(&self) -> Result<(), TargetError> {
        let Inner { subscriptions, publisher, .. } = &*self.inner;
        let (one, other) = tokio::join!(subscriptions.check(), publisher.link().check());
        one.and(other).map_err(TargetError::Unavailable)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Connectivity> {
        self.inner.health.watch()
    }
}

impl fmt::Debug for RedisTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (settings, subscriptions) = (&self.inner.settings, self.subscriptions());
        f.debug_struct("RedisTarget").field("settings", settings).field("subscriptions", &subscriptions).finish()
    }
}

/// A subscription's share in a channel of the connection.
pub(crate) struct Watched {
    name: Name,
    link: Arc<Link>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.link.unsubscribe(&self.name);
    }
}

fn listener(settings: &Settings, fanout: Arc<Fanout>) -> Box<dyn Fn(Event) + Send + Sync> {
    let (topics, lost) = (settings.channel(TOPIC, ""), settings.channel(LOST, ""));
    Box::new(move |event| match event {
        Event::Connected => fanout.interrupt(),
        Event::Message { channel, .. } if channel == lost => fanout.interrupt(),
        Event::Message { pattern, channel, payload } => {
            let Some(topic) = channel.strip_prefix(&topics) else { return };
            let pattern = match pattern.map(|pattern| unescape(&pattern)) {
                None => Pattern::Exact(topic.into()),
                Some(text) => match text.strip_prefix(&topics).and_then(|text| text.strip_suffix('*')) {
                    Some(prefix) => Pattern::Prefix(prefix.into()),
                    None => return,
                },
            };
            fanout.deliver(&pattern, &Message::new(topic, payload));
        }
    })
}

fn name_of(settings: &Settings, pattern: &Pattern) -> Name {
    match pattern {
        Pattern::Exact(topic) => Name::Channel(settings.channel(TOPIC, topic).into()),
        Pattern::Prefix(prefix) => Name::Pattern((escape(&settings.channel(TOPIC, prefix)) + "*").into()),
    }
}

/// Takes the meaning from characters that have one in Redis' patterns.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn unescape(pattern: &str) -> String {
    let mut characters = pattern.chars();
    let next = || match characters.next() {
        Some('\\') => characters.next(),
        other => other,
    };
    std::iter::from_fn(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaping_can_be_undone() {
        for text in ["", "call:", "a?[b]\\*", "ü ?:", "\\\\", "[^a-z]"] {
            assert_eq!(unescape(&escape(text)), text);
        }
        assert_eq!(escape("a?[b]\\*"), "a\\?\\[b\\]\\\\\\*");
    }
}
