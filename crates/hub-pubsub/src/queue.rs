//! The bounded queue of one subscription.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::{Delivery, Message};

/// Payload bytes that one subscription may hold queued. A count alone would let a stalled reader pin
/// a gigabyte of largest messages; a single message above the limit is still delivered.
pub const MAX_QUEUED_BYTES: usize = 16 * 1024 * 1024;

/// When it is full the oldest message goes: for a hint the newest is worth most, and the gap is always at the
/// front, so one count is all there is to report.
pub(crate) struct Queue {
    capacity: usize,
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// Dropped since the last delivery.
    missed: u64,
    /// Comes right after the `Lagged` just delivered. Taken out of the queue together with the count;
    /// left in it, a further overflow would need a second `Lagged` before the same message.
    next: Option<Message>,
    /// Messages may have been lost on the way here. Told before all that is queued: who looks at the event log then
    /// sees a later state than at the place of the gap.
    interrupted: bool,
    closed: bool,
    waker: Option<Waker>,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Self {
        Self::with_limits(capacity, MAX_QUEUED_BYTES)
    }

    fn with_limits(capacity: usize, max_bytes: usize) -> Self {
        Self { capacity: capacity.max(1), max_bytes, state: Mutex::default() }
    }

    /// Never waits. After `close` the message is ignored.
    pub(crate) fn push(&self, message: Message) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        state.bytes = state.bytes.saturating_add(message.payload.len());
        state.messages.push_back(message);
        while state.messages.len() > self.capacity || (state.bytes > self.max_bytes && state.messages.len() > 1) {
            state.pop();
            state.missed = state.missed.saturating_add(1);
        }
        wake(state);
    }

    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Option<Delivery>> {
        let mut state = self.lock();
        if let Some(message) = state.next.take() {
            return Poll::Ready(Some(Delivery::Message(message)));
        }
        if std::mem::take(&mut state.interrupted) {
            return Poll::Ready(Some(Delivery::Interrupted));
        }
        match state.pop() {
            Some(message) if state.missed > 0 => {
                state.next = Some(message);
                Poll::Ready(Some(Delivery::Lagged(std::mem::take(&mut state.missed))))
            }
            Some(message) => Poll::Ready(Some(Delivery::Message(message))),
            None if state.closed => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Messages may have been lost; told once until it is read.
    #[cfg(feature = "redis")]
    pub(crate) fn interrupt(&self) {
        let mut state = self.lock();
        state.interrupted = !state.closed;
        wake(state);
    }

    /// Forgets an interruption of the time before the subscriber had the queue.
    #[cfg(feature = "redis")]
    pub(crate) fn begin(&self) {
        self.lock().interrupted = false;
    }

    /// Accepts nothing more; what is queued can still be read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    /// Closes and frees what is queued: a publisher in the middle of its fan-out may hold the queue a little longer.
    pub(crate) fn discard(&self) {
        let discarded = std::mem::replace(&mut *self.lock(), State { closed: true, ..State::default() });
        drop(discarded);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pop(&mut self) -> Option<Message> {
        let message = self.messages.pop_front()?;
        self.bytes = self.bytes.saturating_sub(message.payload.len());
        Some(message)
    }
}

/// Wakes the reader with the lock released: a waker is foreign code.
fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn push(queue: &Queue, number: u64) {
        queue.push(Message::new("t", number.to_string()));
    }

    fn read(queue: &Queue) -> Poll<Option<Delivery>> {
        queue.poll(&Context::from_waker(Waker::noop()))
    }

    fn message(number: u64) -> Poll<Option<Delivery>> {
        Poll::Ready(Some(Delivery::Message(Message::new("t", number.to_string()))))
    }

    fn lagged(missed: u64) -> Poll<Option<Delivery>> {
        Poll::Ready(Some(Delivery::Lagged(missed)))
    }

    #[test]
    fn overflow_after_lagged_does_not_report_twice_before_a_message() {
        let queue = Queue::new(2);
        (0..5).for_each(|n| push(&queue, n));
        assert_eq!(read(&queue), lagged(3));
        (5..8).for_each(|n| push(&queue, n));
        assert_eq!(read(&queue), message(3));
        assert_eq!(read(&queue), lagged(2));
        assert_eq!(read(&queue), message(6));
        assert_eq!(read(&queue), message(7));
        assert!(read(&queue).is_pending());
    }

    #[test]
    fn bytes_are_bounded_but_one_message_always_fits() {
        let queue = Queue::with_limits(100, 10);
        for size in [6, 4, 6] {
            queue.push(Message::new("t", vec![0; size]));
        }
        assert_eq!(read(&queue), lagged(1));
        queue.push(Message::new("t", vec![0; 50]));
        assert_eq!(read(&queue), Poll::Ready(Some(Delivery::Message(Message::new("t", vec![0; 4])))));
        assert_eq!(read(&queue), lagged(1));
        assert_eq!(read(&queue), Poll::Ready(Some(Delivery::Message(Message::new("t", vec![0; 50])))));
    }

    #[cfg(feature = "redis")]
    #[test]
    fn an_interruption_is_told_first_and_once() {
        let queue = Queue::new(2);
        (0..3).for_each(|n| push(&queue, n));
        (0..2).for_each(|_| queue.interrupt());
        assert_eq!(read(&queue), Poll::Ready(Some(Delivery::Interrupted)));
        assert_eq!(read(&queue), lagged(1));
        queue.interrupt();
        assert_eq!(read(&queue), message(1));
        assert_eq!(read(&queue), Poll::Ready(Some(Delivery::Interrupted)));
        assert_eq!(read(&queue), message(2));
        queue.interrupt();
        queue.begin();
        assert!(read(&queue).is_pending());
    }

    #[test]
    fn a_closed_queue_drains_and_stays_ended() {
        let queue = Queue::new(2);
        push(&queue, 0);
        queue.close();
        push(&queue, 1);
        assert_eq!(read(&queue), message(0));
        assert_eq!(read(&queue), Poll::Ready(None));
        assert_eq!(read(&queue), Poll::Ready(None));
    }

    proptest! {
        /// Every pushed message is either read, in order, or counted by the `Lagged` right before its successor.
        #[test]
        fn nothing_is_lost_silently(capacity in 1_usize..6, steps in prop::collection::vec(any::<bool>(), 0..200)) {
            let queue = Queue::new(capacity);
            let (mut pushed, mut expected, mut just_lagged) = (0_u64, 0_u64, false);
            let drain = std::iter::repeat_n(false, 2 * capacity + 2);
            for is_push in steps.into_iter().chain(drain) {
                if is_push {
                    push(&queue, pushed);
                    pushed += 1;
                    continue;
                }
                match read(&queue) {
                    Poll::Ready(Some(Delivery::Lagged(missed))) => {
                        prop_assert!(!just_lagged && missed > 0);
                        just_lagged = true;
                        expected += missed;
                    }
                    Poll::Ready(Some(Delivery::Message(got))) => {
                        prop_assert_eq!(&got.payload, &expected.to_string());
                        just_lagged = false;
                        expected += 1;
                    }
                    Poll::Ready(Some(Delivery::Interrupted)) => prop_assert!(false, "nothing was lost"),
                    Poll::Ready(None) => prop_assert!(false, "ended"),
                    Poll::Pending => prop_assert_eq!(expected, pushed),
                }
            }
            prop_assert_eq!(expected, pushed);
        }
    }
}
