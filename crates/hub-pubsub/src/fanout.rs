//! Who listens to what within this process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::queue::Queue;
use crate::topic::Pattern;
use crate::{Message, TargetError};

/// Copied on write only while a publisher is walking it, so joining a crowded topic stays cheap.
type Listeners = Arc<Vec<Arc<Queue>>>;
type ByText = HashMap<Arc<str>, Listeners>;

/// Index from topic to queues. The lock is held to look up, never to deliver.
#[derive(Default)]
pub(crate) struct Fanout {
    index: RwLock<Index>,
}

#[derive(Default)]
struct Index {
    exact: ByText,
    /// By length in bytes: a topic is looked up once per length in use, however many prefixes there are.
    prefixes: BTreeMap<usize, ByText>,
    subscriptions: usize,
    closed: bool,
}

impl Fanout {
    pub(crate) fn subscribe(&self, pattern: &Pattern, capacity: usize) -> Result<Arc<Queue>, TargetError> {
        let queue = Arc::new(Queue::new(capacity));
        let mut index = self.write();
        if index.closed {
            return Err(TargetError::Closed);
        }
        index.subscriptions += 1;
        let (by_text, text) = match pattern {
            Pattern::Exact(text) => (&mut index.exact, text),
            Pattern::Prefix(text) => (index.prefixes.entry(text.len()).or_default(), text),
        };
        Arc::make_mut(by_text.entry(text.clone()).or_default()).push(queue.clone());
        Ok(queue)
    }

    /// No effect when the queue is not in the index (any more).
    pub(crate) fn unsubscribe(&self, pattern: &Pattern, queue: &Arc<Queue>) {
        let mut index = self.write();
        let removed = match pattern {
            Pattern::Exact(text) => remove(&mut index.exact, text, queue),
            Pattern::Prefix(text) => {
                let Some(by_text) = index.prefixes.get_mut(&text.len()) else { return };
                let removed = remove(by_text, text, queue);
                if by_text.is_empty() {
                    index.prefixes.remove(&text.len());
                }
                removed
            }
        };
        index.subscriptions -= usize::from(removed);
    }

    pub(crate) fn publish(&self, message: &Message) -> Result<(), TargetError> {
        let (exact, prefixed) = self.read().listeners(&message.topic)?;
        for queue in exact.iter().chain(&prefixed).flat_map(|listeners| listeners.iter()) {
            queue.push(message.clone());
        }
        Ok(())
    }

    /// Hands a message to those alone who listen to exactly `pattern`, for a target whose server did the matching.
    #[cfg(feature = "redis")]
    pub(crate) fn deliver(&self, pattern: &Pattern, message: &Message) {
        let index = self.read();
        let listeners = match pattern {
            Pattern::Exact(text) => index.exact.get(text),
            Pattern::Prefix(text) => index.prefixes.get(&text.len()).and_then(|by_text| by_text.get(text)),
        };
        let listeners = listeners.cloned();
        drop(index);
        listeners.iter().flat_map(|listeners| listeners.iter()).for_each(|queue| queue.push(message.clone()));
    }

    /// Tells everyone that messages may have been lost.
    #[cfg(feature = "redis")]
    pub(crate) fn interrupt(&self) {
        let index = self.read();
        let prefixed = index.prefixes.values().flat_map(HashMap::values);
        let queues: Vec<_> = index.exact.values().chain(prefixed).flat_map(|listeners| listeners.to_vec()).collect();
        drop(index);
        queues.iter().for_each(|queue| queue.interrupt());
    }

    pub(crate) fn close(&self) {
        let closed = std::mem::replace(&mut *self.write(), Index { closed: true, ..Index::default() });
        let prefixed = closed.prefixes.into_values().flat_map(HashMap::into_values);
        for queue in closed.exact.into_values().chain(prefixed).flat_map(|listeners| listeners.to_vec()) {
            queue.close();
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn is_closed(&self) -> bool {
        self.read().closed
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.read().subscriptions
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn listeners(&self, topic: &str) -> Result<(Option<Listeners>, Vec<Listeners>), TargetError> {
        if self.closed {
            return Err(TargetError::Closed);
        }
        let prefixed = self.prefixes.range(..=topic.len());
        // `get` is None inside a character, where no prefix of whole characters can end.
        let prefixed = prefixed.filter_map(|(length, by_text)| by_text.get(topic.get(..*length)?).cloned());
        Ok((self.exact.get(topic).cloned(), prefixed.collect()))
    }
}

fn remove(by_text: &mut ByText, text: &str, queue: &Arc<Queue>) -> bool {
    let Some(listeners) = by_text.get_mut(text) else { return false };
    let Some(at) = listeners.iter().position(|other| Arc::ptr_eq(other, queue)) else { return false };
    if listeners.len() == 1 {
        by_text.remove(text);
    } else {
        Arc::make_mut(listeners).swap_remove(at);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(fanout: &Fanout) -> (usize, usize, usize) {
        let index = fanout.read();
        (index.exact.len(), index.prefixes.len(), index.subscriptions)
    }

    #[test]
    fn empty_topics_and_prefixes_are_removed() -> Result<(), TargetError> {
        let fanout = Fanout::default();
        let patterns = ["a", "a", "b", "a*", "b*", "longer*"].map(Pattern::parse);
        let mut queues = Vec::new();
        for pattern in patterns {
            let pattern = pattern?;
            queues.push((fanout.subscribe(&pattern, 1)?, pattern));
        }
        assert_eq!(sizes(&fanout), (2, 2, 6));
        for (queue, pattern) in &queues {
            fanout.unsubscribe(pattern, queue);
            fanout.unsubscribe(pattern, queue);
        }
        assert_eq!(sizes(&fanout), (0, 0, 0));
        Ok(())
    }

    #[test]
    fn prefixes_match_at_character_boundaries_only() -> Result<(), TargetError> {
        let fanout = Fanout::default();
        for pattern in ["*", "ä*", "a*", "äx*"] {
            fanout.subscribe(&Pattern::parse(pattern)?, 1)?;
        }
        let matching = |topic: &str| fanout.read().listeners(topic).map(|(_, prefixed)| prefixed.len());
        assert_eq!(matching("ä")?, 2);
        assert_eq!(matching("€x")?, 1);
        assert_eq!(matching("äxy")?, 3);
        Ok(())
    }
}
