//! The bus between processes.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use redis::Value;

use super::link::{Event, Link, State};
use super::sender::{Answer, Sender};
use super::settings::{RedisOptions, Settings};
use super::wanted::Name;
use crate::bus::{Inbox, Queue, To};
use crate::{Connectivity, TargetError};

/// Begins the channels of names, after the options' prefix.
const NAME: &str = "h:";
/// Stands for all names; no name holds a star.
const ALL: &str = "*all*";

pub(crate) struct RedisBus {
    settings: Settings,
    sender: Sender,
    /// None once it is closed.
    inboxes: Mutex<Option<Vec<Weak<Queue>>>>,
}

/// An inbox's own connection: large frames to one do not hold up another.
pub(crate) struct Listening {
    _link: Link,
}

impl Drop for RedisBus {
    fn drop(&mut self) {
        self.close();
    }
}

impl RedisBus {
    pub(crate) fn new(url: &str, options: RedisOptions) -> Result<Self, TargetError> {
        let settings = Settings::new(url, options)?;
        let sender = Sender::start("bus", &settings, None);
        Ok(Self { settings, sender, inboxes: Mutex::new(Some(Vec::new())) })
    }

    pub(crate) async fn put(&self, to: To<'_>, frame: Bytes) -> Result<Answer, TargetError> {
        if let Some(reason) = self.sender.link().away() {
            return Err(if self.is_closed() { TargetError::Closed } else { TargetError::Unavailable(reason) });
        }
        let name = match to {
            To::Name(name) => name,
            To::All => ALL,
        };
        self.sender.put(self.settings.channel(NAME, name), frame).await
    }

    pub(crate) async fn listen(&self, name: &str) -> Result<Inbox, TargetError> {
        let queue = Arc::new(Queue::new(self.settings.options.inbox_bytes));
        self.register(&queue)?;
        let pushed = Arc::downgrade(&queue);
        let listener = move |event| {
            let Some(queue) = pushed.upgrade() else { return };
            match event {
                Event::Connected => queue.interrupt(),
                Event::Message { payload, .. } => queue.push(payload),
            }
        };
        let link = Link::start("inbox", &self.settings, Box::new(listener));
        let [all, own] = [ALL, name].map(|name| Name::Channel(self.settings.channel(NAME, name).into()));
        link.want(&all);
        let mut generation = link.subscribe(&own).await;
        if generation > 0 {
            // Most often confirmed with the other.
            generation = generation.min(link.subscribe(&all).await);
        }
        queue.begin();
        if link.generation() != generation {
            queue.interrupt();
        }
        if self.is_closed() {
            return Err(TargetError::Closed);
        }
        Ok(Inbox::new(queue).listening(Listening { _link: link }))
    }

    pub(crate) async fn is_listening(&self, name: &str) -> Result<bool, TargetError> {
        let link = self.sender.link();
        let mut connection = link.connection().await.map_err(|reason| match self.is_closed() {
            true => TargetError::Closed,
            false => TargetError::Unavailable(reason),
        })?;
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB").arg(self.settings.channel(NAME, name));
        let numbers = connection.redis.send_packed_command(&command).await;
        match numbers.map_err(|_| TargetError::Unavailable("no answer"))? {
            Value::Array(pair) => Ok(matches!(pair.get(1), Some(Value::Int(1..)))),
            // RESP3 may answer with a map.
            Value::Map(pairs) => Ok(matches!(pairs.first(), Some((_, Value::Int(1..))))),
            _ => Err(TargetError::Unavailable("the server refused")),
        }
    }

    pub(crate) async fn check(&self) -> Result<(), TargetError> {
        self.sender.link().check().await.map_err(TargetError::Unavailable)
    }

    pub(crate) fn connectivity(&self) -> Connectivity {
        match *self.sender.link().state().borrow() {
            State::Connecting => Connectivity::Connecting,
            State::Connected(_) => Connectivity::Connected,
            State::Away(reason) => Connectivity::Away(reason),
        }
    }

    pub(crate) fn close(&self) {
        let inboxes = self.lock().take();
        inboxes.iter().flatten().filter_map(Weak::upgrade).for_each(|queue| queue.close());
        self.sender.stop();
    }

    fn register(&self, queue: &Arc<Queue>) -> Result<(), TargetError> {
        let mut inboxes = self.lock();
        let inboxes = inboxes.as_mut().ok_or(TargetError::Closed)?;
        inboxes.retain(|queue| queue.strong_count() > 0);
        inboxes.push(Arc::downgrade(queue));
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.lock().is_none()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Vec<Weak<Queue>>>> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
