//! Stream operators: which are there already, and those that are not.
//!
//! The thirteen operators of the TypeScript library, and what to use here:
//!
//! | there | here |
//! |---|---|
//! | `filter` | [`futures_util::StreamExt::filter`], `filter_map`; [`tokio_stream::StreamExt::filter`] for plain closures |
//! | `map` | [`futures_util::StreamExt::map`]; `then` for async functions |
//! | `take` | [`futures_util::StreamExt::take`]; `take_while`, `take_until` |
//! | `reduce` | [`futures_util::StreamExt::fold`] for the final value, `scan` for each on the way |
//! | `toArray` | [`futures_util::StreamExt::collect`] into a `Vec`, after `take(limit)`: a live stream has no end |
//! | `flat` | [`futures_util::StreamExt::flatten`] (`map(stream::iter)` first for lists), `flatten_unordered(limit)` |
//! | `chain` | [`futures_util::StreamExt::chain`] |
//! | `pipe` | [`StreamOperators::pipe`] |
//! | `batch` | [`StreamOperators::batch`], which is [`tokio_stream::StreamExt::chunks_timeout`] made safe to configure |
//! | `dedupe` | [`StreamOperators::dedupe`] |
//! | `window` | [`StreamOperators::window`] |
//! | `groupBy` | [`StreamOperators::group_by`] |
//! | `join` | [`StreamOperators::join`] |
//!
//! All are lazy, keep a bounded amount of memory, pass backpressure on to their source, and once ended stay ended.
//! The count limits are `NonZeroUsize`, so no operator has a way to panic.

mod group_by;
mod join;

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _};

pub use group_by::{Group, GroupBy, GroupLimits};
pub use join::Joined;

/// Largest batch: a batch's memory is reserved when its first item comes.
pub const MAX_BATCH: usize = 65_536;

/// What the standard stream crates lack. For all streams.
pub trait StreamOperators: Stream + Sized {
    /// Applies a function to the stream itself, so that a named series of operators reads in order.
    fn pipe<R>(self, operators: impl FnOnce(Self) -> R) -> R {
        operators(self)
    }

    /// Collects items until there are `max_items` (at most [`MAX_BATCH`]), or `max_wait` has passed since the first
    /// item of the batch, or the stream has ended. Batches are never empty. Needs tokio's timer.
    fn batch(self, max_items: NonZeroUsize, max_wait: Duration) -> impl Stream<Item = Vec<Self::Item>> {
        tokio_stream::StreamExt::chunks_timeout(self, max_items.get().min(MAX_BATCH), max_wait)
    }

    /// Drops items whose key is among the last `memory` distinct keys.
    ///
    /// A repeat does not refresh its key: an item that repeats for ever comes through once in a while.
    fn dedupe<K, F>(self, memory: NonZeroUsize, mut key: F) -> impl Stream<Item = Self::Item>
    where
        K: Hash + Eq + Clone,
        F: FnMut(&Self::Item) -> K,
    {
        let (mut known, mut oldest_first) = (HashSet::new(), VecDeque::new());
        let is_new = move |item: &Self::Item| {
            let key = key(item);
            if !known.insert(key.clone()) {
                return false;
            }
            if oldest_first.len() == memory.get()
                && let Some(oldest) = oldest_first.pop_front()
            {
                known.remove(&oldest);
            }
            oldest_first.push_back(key);
            true
        };
        tokio_stream::StreamExt::filter(self.fuse(), is_new)
    }

    /// The last `size` items, after every `step` new ones: `step` 1 slides, `step` = `size` cuts the stream in pieces,
    /// a larger `step` leaves items out.
    ///
    /// As with `slice::windows`, all windows are full: a rest at the end is not given out.
    fn window(self, size: NonZeroUsize, step: NonZeroUsize) -> impl Stream<Item = Vec<Self::Item>>
    where
        Self::Item: Clone,
    {
        let mut recent = VecDeque::new();
        let mut missing = size.get();
        let accept = move |item| {
            if recent.len() == size.get() {
                recent.pop_front();
            }
            recent.push_back(item);
            missing -= 1;
            if missing > 0 {
                return None;
            }
            missing = step.get();
            Some(recent.iter().cloned().collect())
        };
        tokio_stream::StreamExt::filter_map(self.fuse(), accept)
    }

    /// Splits the stream by key. See [`GroupBy`] for how groups open, end and hold each other up.
    fn group_by<K, F>(self, limits: GroupLimits, key: F) -> GroupBy<Self, K, F>
    where
        K: Hash + Eq + Clone,
        F: FnMut(&Self::Item) -> K,
    {
        GroupBy::new(self, limits, key)
    }

    /// Pairs the items of two streams that have the same key, such as requests and their responses.
    ///
    /// Each item is used once, the oldest first. Up to `pending` items per side wait for their partner; when there
    /// are more, or the other stream has ended, the oldest come out alone, so nothing is lost silently.
    fn join<R, K>(
        self,
        other: R,
        pending: NonZeroUsize,
        left_key: impl FnMut(&Self::Item) -> K,
        right_key: impl FnMut(&R::Item) -> K,
    ) -> impl Stream<Item = Joined<Self::Item, R::Item>>
    where
        R: Stream,
        K: Hash + Eq + Clone,
    {
        join::join(self, other, pending, left_key, right_key)
    }
}

impl<S: Stream> StreamOperators for S {}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use tokio::sync::mpsc;
    use tokio::time::{Instant, advance, sleep};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    fn count(n: usize) -> NonZeroUsize {
        NonZeroUsize::new(n).expect("not zero")
    }

    #[tokio::test]
    async fn pipe_applies_in_order() {
        let doubled_evens = |s: stream::Iter<std::ops::Range<i32>>| s.filter(|n| ready(n % 2 == 0)).map(|n| n * 2);
        assert_eq!(stream::iter(0..5).pipe(doubled_evens).collect::<Vec<_>>().await, [0, 4, 8]);
    }

    #[tokio::test(start_paused = true)]
    async fn batch_by_count_by_time_and_at_the_end() {
        let (tx, rx) = mpsc::channel(16);
        let mut batches = Box::pin(ReceiverStream::new(rx).batch(count(3), Duration::from_millis(100)));
        assert!(batches.next().now_or_never().is_none());
        // The wait counts from the first item, not from the last batch.
        advance(Duration::from_secs(10)).await;
        for n in 0..4 {
            tx.send(n).await.expect("open");
        }
        let start = Instant::now();
        assert_eq!(batches.next().await, Some(vec![0, 1, 2]));
        assert_eq!(start.elapsed(), Duration::ZERO);
        assert!(batches.next().now_or_never().is_none());
        sleep(Duration::from_millis(60)).await;
        tx.send(4).await.expect("open");
        assert_eq!(batches.next().await, Some(vec![3, 4]));
        let waited = start.elapsed().as_millis();
        assert!((100..=102).contains(&waited), "{waited} ms");
        tx.send(5).await.expect("open");
        drop(tx);
        assert_eq!(batches.next().await, Some(vec![5]));
        assert_eq!(batches.next().await, None);
        assert_eq!(batches.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_huge_batch_limit_is_no_huge_allocation() {
        let batches = stream::iter(0..3).batch(NonZeroUsize::MAX, Duration::MAX);
        assert_eq!(batches.collect::<Vec<_>>().await, [vec![0, 1, 2]]);
    }

    #[tokio::test]
    async fn dedupe_remembers_the_last_keys_only() {
        let items = [1, 1, 2, 1, 3, 1, 2, 2];
        let out = stream::iter(items).dedupe(count(2), |n| *n).collect::<Vec<_>>().await;
        // 3 pushes 1 out of the memory, the new 1 pushes 2 out.
        assert_eq!(out, [1, 2, 3, 1, 2]);
        let out = stream::iter(["a1", "b1", "a2"]).dedupe(count(9), |s| s.as_bytes()[0]).collect::<Vec<_>>().await;
        assert_eq!(out, ["a1", "b1"]);
    }

    #[tokio::test]
    async fn window_slides_tumbles_and_skips() {
        let windows = |size, step| stream::iter(1..=5).window(count(size), count(step)).collect::<Vec<_>>();
        assert_eq!(windows(3, 1).await, [[1, 2, 3], [2, 3, 4], [3, 4, 5]]);
        assert_eq!(windows(2, 2).await, [[1, 2], [3, 4]]);
        assert_eq!(windows(1, 3).await, [[1], [4]]);
        assert!(windows(6, 1).await.is_empty());
    }

    #[tokio::test]
    async fn operators_end_once_and_can_be_sent() {
        fn sendable<S: Stream + Send>(stream: S) -> S {
            stream
        }
        // A source that would start again after its end.
        let mut calls = 0;
        let source = stream::poll_fn(move |_| {
            calls += 1;
            std::task::Poll::Ready((calls % 3 != 0).then_some(calls))
        });
        let mut deduped = sendable(source.dedupe(count(9), |n| *n).pipe(Box::pin));
        assert_eq!(deduped.by_ref().collect::<Vec<_>>().await, [1, 2]);
        assert_eq!(deduped.next().await, None);
        let _ = sendable(stream::iter(0..3).window(count(1), count(1)));
        let _ = sendable(stream::iter(0..3).join(stream::iter(0..3), count(1), |n| *n, |n| *n));
        let _ = sendable(stream::iter(0..3).batch(count(1), Duration::ZERO));
    }

    #[tokio::test]
    async fn size_hints_hold() {
        let (low, high) = stream::iter(0..9).dedupe(count(2), |n| *n).size_hint();
        assert_eq!((low, high), (0, Some(9)));
        let (low, high) = stream::iter(0..9).window(count(2), count(2)).size_hint();
        assert_eq!((low, high), (0, Some(9)));
    }
}
