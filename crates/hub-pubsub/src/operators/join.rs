//! Pairs items of two streams by key.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::ready;
use std::hash::Hash;
use std::num::NonZeroUsize;

use futures_util::stream::{self, Stream, StreamExt as _};

/// What [`join`](super::StreamOperators::join) yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined<L, R> {
    /// Two items with the same key.
    Both(L, R),
    /// An item of the left stream whose partner did not come in time.
    Left(L),
    /// An item of the right stream whose partner did not come in time.
    Right(R),
}

enum Input<L, R> {
    Left(L),
    Right(R),
    LeftEnded,
    RightEnded,
}

pub(super) fn join<L: Stream, R: Stream, K: Hash + Eq + Clone>(
    left: L,
    right: R,
    pending: NonZeroUsize,
    mut left_key: impl FnMut(&L::Item) -> K,
    mut right_key: impl FnMut(&R::Item) -> K,
) -> impl Stream<Item = Joined<L::Item, R::Item>> {
    let (mut lefts, mut rights) = (Side::new(pending), Side::new(pending));
    let accept = move |input| match input {
        Input::Left(item) => match rights.meet(left_key(&item), item, &mut lefts) {
            Met::Partner(item, partner) => vec![Joined::Both(item, partner)],
            Met::Nobody(alone) => alone.map(Joined::Left).into_iter().collect(),
        },
        Input::Right(item) => match lefts.meet(right_key(&item), item, &mut rights) {
            Met::Partner(item, partner) => vec![Joined::Both(partner, item)],
            Met::Nobody(alone) => alone.map(Joined::Right).into_iter().collect(),
        },
        Input::LeftEnded => {
            lefts.ended = true;
            rights.drain().map(Joined::Right).collect()
        }
        Input::RightEnded => {
            rights.ended = true;
            lefts.drain().map(Joined::Left).collect()
        }
    };
    let left = left.map(Input::Left).chain(stream::once(ready(Input::LeftEnded)));
    let right = right.map(Input::Right).chain(stream::once(ready(Input::RightEnded)));
    // `select` takes turns, so a busy side does not starve the other.
    stream::select(left, right).map(accept).map(stream::iter).flatten().fuse()
}

/// The items of one stream that wait for a partner.
struct Side<K, T> {
    limit: NonZeroUsize,
    /// By arrival.
    waiting: BTreeMap<u64, (K, T)>,
    /// Arrival numbers, oldest first.
    by_key: HashMap<K, VecDeque<u64>>,
    arrivals: u64,
    ended: bool,
}

enum Met<T, P> {
    Partner(T, P),
    /// Nobody waits for the item; holds the one that no longer waits instead, if any.
    Nobody(Option<T>),
}

impl<K: Hash + Eq + Clone, T> Side<K, T> {
    fn new(limit: NonZeroUsize) -> Self {
        Self { limit, waiting: BTreeMap::new(), by_key: HashMap::new(), arrivals: 0, ended: false }
    }

    /// Looks on this side for a partner of `item`, which else waits on its `own` side.
    fn meet<I>(&mut self, key: K, item: I, own: &mut Side<K, I>) -> Met<I, T> {
        match self.take(&key) {
            Some(partner) => Met::Partner(item, partner),
            None if self.ended => Met::Nobody(Some(item)),
            None => Met::Nobody(own.wait(key, item)),
        }
    }

    fn take(&mut self, key: &K) -> Option<T> {
        let arrivals = self.by_key.get_mut(key)?;
        let oldest = arrivals.pop_front();
        if arrivals.is_empty() {
            self.by_key.remove(key);
        }
        self.waiting.remove(&oldest?).map(|(_, item)| item)
    }

    /// Returns the oldest item when there are too many.
    fn wait(&mut self, key: K, item: T) -> Option<T> {
        let arrival = self.arrivals;
        self.arrivals += 1;
        self.by_key.entry(key.clone()).or_default().push_back(arrival);
        self.waiting.insert(arrival, (key, item));
        if self.waiting.len() <= self.limit.get() {
            return None;
        }
        // The oldest of all is also the oldest of its key.
        let oldest = self.waiting.first_key_value()?.1.0.clone();
        self.take(&oldest)
    }

    fn drain(&mut self) -> impl Iterator<Item = T> {
        self.by_key.clear();
        std::mem::take(&mut self.waiting).into_values().map(|(_, item)| item)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::Joined::{Both, Left, Right};
    use super::*;

    type Item = (u32, &'static str);

    fn joined(
        pending: usize,
    ) -> (mpsc::Sender<Item>, mpsc::Sender<Item>, impl Stream<Item = Joined<Item, Item>> + Unpin) {
        let (left, lefts) = mpsc::channel(16);
        let (right, rights) = mpsc::channel(16);
        let pending = NonZeroUsize::new(pending).expect("not zero");
        let out =
            join(ReceiverStream::new(lefts), ReceiverStream::new(rights), pending, |i: &Item| i.0, |i: &Item| i.0);
        (left, right, Box::pin(out))
    }

    async fn send<const N: usize>(to: &mpsc::Sender<Item>, items: [Item; N]) {
        for item in items {
            to.send(item).await.expect("open");
        }
    }

    #[tokio::test]
    async fn pairs_by_key_oldest_first() {
        let (left, right, mut out) = joined(8);
        send(&left, [(1, "a"), (2, "b"), (1, "c")]).await;
        assert!(out.next().now_or_never().is_none());
        send(&right, [(2, "x"), (1, "y"), (1, "z")]).await;
        assert_eq!(out.next().await, Some(Both((2, "b"), (2, "x"))));
        assert_eq!(out.next().await, Some(Both((1, "a"), (1, "y"))));
        assert_eq!(out.next().await, Some(Both((1, "c"), (1, "z"))));
        assert!(out.next().now_or_never().is_none());
    }

    #[tokio::test]
    async fn too_many_waiting_come_out_alone_the_oldest_first() {
        let (left, right, mut out) = joined(2);
        send(&left, [(1, "a"), (1, "b"), (2, "c")]).await;
        assert_eq!(out.next().await, Some(Left((1, "a"))));
        send(&right, [(1, "x")]).await;
        assert_eq!(out.next().await, Some(Both((1, "b"), (1, "x"))));
    }

    #[tokio::test]
    async fn the_end_of_a_side_releases_the_other() {
        let (left, right, mut out) = joined(8);
        send(&left, [(1, "a"), (2, "b")]).await;
        assert!(out.next().now_or_never().is_none());
        drop(right);
        assert_eq!(out.next().await, Some(Left((1, "a"))));
        assert_eq!(out.next().await, Some(Left((2, "b"))));
        send(&left, [(3, "c")]).await;
        assert_eq!(out.next().await, Some(Left((3, "c"))));
        drop(left);
        assert_eq!(out.next().await, None);
        assert_eq!(out.next().await, None);
    }

    /// An ended side's waiting items can still be met.
    #[tokio::test]
    async fn an_ended_side_still_pairs() {
        let (left, right, mut out) = joined(8);
        send(&left, [(1, "a"), (2, "b")]).await;
        drop(left);
        assert!(out.next().now_or_never().is_none());
        send(&right, [(2, "x"), (3, "y")]).await;
        assert_eq!(out.next().await, Some(Both((2, "b"), (2, "x"))));
        assert_eq!(out.next().await, Some(Right((3, "y"))));
        drop(right);
        assert_eq!(out.next().await, Some(Left((1, "a"))));
        assert_eq!(out.next().await, None);
    }
}
