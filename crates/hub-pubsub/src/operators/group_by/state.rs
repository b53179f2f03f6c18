//! What the streams of one `group_by` share.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::stream::{Fuse, Stream, StreamExt as _};

use super::GroupLimits;

/// The party that takes new groups; groups count from one.
pub(super) const OUTER: u64 = 0;

/// Items moved in one poll before giving way to other tasks; a source may be ready for ever.
const ITEMS_PER_POLL: usize = 64;

pub(super) struct Shared<S: Stream, K, F> {
    state: Mutex<State<S, K, F>>,
    waiting: Arc<Waiting>,
}

/// What a party finds for itself.
pub(super) enum Found<T> {
    Something(T),
    /// Not yet; the source has to move on first.
    Nothing,
    End,
}

pub(super) struct State<S: Stream, K, F> {
    source: Pin<Box<Fuse<S>>>,
    key: F,
    limits: GroupLimits,
    /// Open groups: new items of a key go there.
    open: HashMap<K, u64>,
    /// Open groups, and ended ones that still have a reader.
    buffers: HashMap<u64, Buffer<S::Item>>,
    /// A new group that nobody has taken yet.
    untaken: Option<(K, u64)>,
    /// An item without a place; the source rests until it has one.
    stalled: Option<(K, S::Item)>,
    groups_opened: u64,
    items_placed: u64,
    source_ended: bool,
    outer_dropped: bool,
}

struct Buffer<T> {
    items: VecDeque<T>,
    open: bool,
    /// Number of its latest item, to find the group that is idle longest.
    latest: u64,
}

/// The tasks to wake, by party. Any of them may have been the last to poll the source, and that one may be gone when
/// the source wakes, so it wakes them all.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Waker>>);

impl<S: Stream, K: Hash + Eq + Clone, F: FnMut(&S::Item) -> K> Shared<S, K, F> {
    pub(super) fn new(source: S, limits: GroupLimits, key: F) -> Self {
        let state = State {
            source: Box::pin(source.fuse()),
            key,
            limits,
            open: HashMap::new(),
            buffers: HashMap::new(),
            untaken: None,
            stalled: None,
            groups_opened: 0,
            items_placed: 0,
            source_ended: false,
            outer_dropped: false,
        };
        Self { state: Mutex::new(state), waiting: Arc::default() }
    }

    pub(super) fn poll<T>(
        &self,
        party: u64,
        cx: &Context<'_>,
        take: impl Fn(&mut State<S, K, F>) -> Found<T>,
    ) -> Poll<Option<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waker = Waker::from(self.waiting.clone());
        let mut source_cx = Context::from_waker(&waker);
        for _ in 0..ITEMS_PER_POLL {
            let was_stalled = state.stalled.is_some();
            match take(&mut state) {
                Found::Something(found) => {
                    // The party may have made room for what the others wait for, and may not poll again soon.
                    if was_stalled {
                        self.waiting.wake_all();
                    }
                    return Poll::Ready(Some(found));
                }
                Found::End => return Poll::Ready(None),
                Found::Nothing => {}
            }
            // Before the source is polled, or its wake-up could be missed.
            self.waiting.register(party, cx.waker());
            match state.advance(&mut source_cx) {
                Advance::Put(group) => self.waiting.wake_party(group),
                Advance::Opened { ended } => {
                    self.waiting.wake_party(OUTER);
                    ended.into_iter().for_each(|group| self.waiting.wake_party(group));
                }
                Advance::Discarded => {}
                Advance::Ended => self.waiting.wake_all(),
                Advance::Stuck(on) => {
                    self.waiting.wake_party(on);
                    return Poll::Pending;
                }
                Advance::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: Stream, K, F> Shared<S, K, F> {
    /// The party's stream was dropped.
    pub(super) fn leave(&self, party: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let discarded = if party == OUTER {
            state.outer_dropped = true;
            let untaken = state.untaken.take();
            untaken.and_then(|(_, id)| state.discard(id))
        } else {
            state.discard(party)
        };
        drop(state);
        // Items are foreign code: dropped with the lock released.
        drop(discarded);
        self.waiting.forget(party);
        self.waiting.wake_all();
    }
}

enum Advance {
    /// An item was put into this group.
    Put(u64),
    /// An item was put into a new group, for which another may have ended.
    Opened {
        ended: Option<u64>,
    },
    /// Nobody wants the item.
    Discarded,
    /// The source has no more.
    Ended,
    /// Only this party can make room.
    Stuck(u64),
    Pending,
}

impl<S: Stream, K, F> State<S, K, F> {
    fn discard(&mut self, id: u64) -> Option<Buffer<S::Item>> {
        self.open.retain(|_, open| *open != id);
        self.buffers.remove(&id)
    }
}

impl<S: Stream, K: Hash + Eq + Clone, F: FnMut(&S::Item) -> K> State<S, K, F> {
    pub(super) fn take_opened(&mut self) -> Found<(K, u64)> {
        match self.untaken.take() {
            Some(opened) => Found::Something(opened),
            None if self.source_ended => Found::End,
            None => Found::Nothing,
        }
    }

    pub(super) fn take_item(&mut self, id: u64) -> Found<S::Item> {
        let Some(buffer) = self.buffers.get_mut(&id) else { return Found::End };
        match buffer.items.pop_front() {
            Some(item) => Found::Something(item),
            None if self.source_ended || !buffer.open => Found::End,
            None => Found::Nothing,
        }
    }

    /// Moves one item from the source to its group.
    fn advance(&mut self, cx: &mut Context<'_>) -> Advance {
        let (key, item) = match self.stalled.take() {
            Some(stalled) => stalled,
            None => match self.source.as_mut().poll_next(cx) {
                Poll::Pending => return Advance::Pending,
                Poll::Ready(None) => {
                    self.source_ended = true;
                    return Advance::Ended;
                }
                Poll::Ready(Some(item)) => ((self.key)(&item), item),
            },
        };
        match self.open.get(&key) {
            Some(&id) => self.put(id, key, item),
            None if self.outer_dropped => Advance::Discarded,
            None if self.untaken.is_some() => {
                self.stalled = Some((key, item));
                Advance::Stuck(OUTER)
            }
            None => self.put_in_new_group(key, item),
        }
    }

    fn put(&mut self, id: u64, key: K, item: S::Item) -> Advance {
        let Some(buffer) = self.buffers.get_mut(&id) else { return Advance::Discarded };
        if buffer.items.len() >= self.limits.buffer.get() {
            self.stalled = Some((key, item));
            // An untaken group can't be read by anyone yet.
            let untaken = self.untaken.as_ref().is_some_and(|(_, untaken)| *untaken == id);
            return Advance::Stuck(if untaken { OUTER } else { id });
        }
        self.items_placed += 1;
        buffer.latest = self.items_placed;
        buffer.items.push_back(item);
        Advance::Put(id)
    }

    fn put_in_new_group(&mut self, key: K, item: S::Item) -> Advance {
        let ended = if self.open.len() >= self.limits.groups.get() { self.end_idlest() } else { None };
        self.groups_opened += 1;
        self.items_placed += 1;
        let id = self.groups_opened;
        self.open.insert(key.clone(), id);
        self.buffers.insert(id, Buffer { items: VecDeque::from([item]), open: true, latest: self.items_placed });
        self.untaken = Some((key, id));
        Advance::Opened { ended }
    }

    fn end_idlest(&mut self) -> Option<u64> {
        let idlest = self.buffers.iter_mut().filter(|(_, buffer)| buffer.open).min_by_key(|(_, buffer)| buffer.latest);
        let (&id, buffer) = idlest?;
        buffer.open = false;
        self.open.retain(|_, open| *open != id);
        Some(id)
    }
}

impl Waiting {
    fn register(&self, party: u64, waker: &Waker) {
        self.lock().insert(party, waker.clone());
    }

    fn forget(&self, party: u64) {
        self.lock().remove(&party);
    }

    fn wake_party(&self, party: u64) {
        let waker = self.lock().remove(&party);
        waker.into_iter().for_each(Waker::wake);
    }

    fn wake_all(&self) {
        let wakers = std::mem::take(&mut *self.lock());
        wakers.into_values().for_each(Waker::wake);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Waiting {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }
}
