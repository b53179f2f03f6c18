//! Splits a stream by key into bounded groups.

mod state;

use std::hash::Hash;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;

use state::{OUTER, Shared};

/// Bounds of [`group_by`](super::StreamOperators::group_by): at most `groups` × `buffer` items wait in open groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Groups open at a time.
    pub groups: NonZeroUsize,
    /// Items that wait in one group.
    pub buffer: NonZeroUsize,
}

/// Yields a [`Group`] for each new key.
///
/// - Nothing runs in the background: polling any of the streams moves the source on for all.
/// - Nothing is dropped behind a reader's back: a group with a full buffer holds the source, and so all other groups,
///   until it is read or dropped. The same goes for a new group that is not taken. So read all of them concurrently.
/// - When one group more than the limit is needed, the group that has gone longest without an item ends after what it
///   has buffered. An item with the key of an ended or dropped group opens a new group.
/// - When this stream is dropped the open groups go on, and items of other keys are discarded.
#[must_use = "streams do nothing unless polled"]
pub struct GroupBy<S: Stream, K, F> {
    shared: Arc<Shared<S, K, F>>,
}

/// The items of one key, in order. See [`GroupBy`].
#[must_use = "an unread group holds up all others; drop it to discard its items"]
pub struct Group<S: Stream, K, F> {
    key: K,
    id: u64,
    shared: Arc<Shared<S, K, F>>,
}

impl<S: Stream, K: Hash + Eq + Clone, F: FnMut(&S::Item) -> K> GroupBy<S, K, F> {
    pub(super) fn new(source: S, limits: GroupLimits, key: F) -> Self {
        Self { shared: Arc::new(Shared::new(source, limits, key)) }
    }
}

impl<S: Stream, K: Hash + Eq + Clone, F: FnMut(&S::Item) -> K> Stream for GroupBy<S, K, F> {
    type Item = Group<S, K, F>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let opened = self.shared.poll(OUTER, cx, |state| state.take_opened());
        opened.map(|opened| opened.map(|(key, id)| Group { key, id, shared: self.shared.clone() }))
    }
}

impl<S: Stream, K, F> Group<S, K, F> {
    /// The key that all items of the group have.
    pub fn key(&self) -> &K {
        &self.key
    }
}

// The key is only read, never pinned.
impl<S: Stream, K, F> Unpin for Group<S, K, F> {}

impl<S: Stream, K: Hash + Eq + Clone, F: FnMut(&S::Item) -> K> Stream for Group<S, K, F> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<S::Item>> {
        self.shared.poll(self.id, cx, |state| state.take_item(self.id))
    }
}

impl<S: Stream, K, F> Drop for GroupBy<S, K, F> {
    fn drop(&mut self) {
        self.shared.leave(OUTER);
    }
}

impl<S: Stream, K, F> Drop for Group<S, K, F> {
    fn drop(&mut self) {
        self.shared.leave(self.id);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod wake_tests;
