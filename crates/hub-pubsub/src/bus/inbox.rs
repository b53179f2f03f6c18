//! The receiving end of a bus.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::task::coop;

/// What an [`Inbox`] yields.
#[derive(Clone, PartialEq, Eq)]
pub enum BusDelivery {
    /// The next frame.
    Frame(Bytes),
    /// The connection to the server was lost and is back: frames may have been lost here, nobody knows how many.
    Interrupted,
    /// The inbox was full: this many frames were dropped here.
    Lagged(u64),
}

/// Frames can hold secrets, so only their size is shown.
impl fmt::Debug for BusDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(frame) => write!(f, "Frame({} bytes)", frame.len()),
            Self::Interrupted => f.write_str("Interrupted"),
            Self::Lagged(missed) => write!(f, "Lagged({missed})"),
        }
    }
}

/// Frames sent to one name, from [`Bus::listen`](crate::Bus::listen).
///
/// Ends once the bus is closed and what was queued has been read; then stays ended. Dropping it ends the listening.
pub struct Inbox {
    queue: Arc<Queue>,
    /// Kept for its drop.
    #[cfg(feature = "redis")]
    listening: Option<crate::redis::Listening>,
}

impl Inbox {
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            #[cfg(feature = "redis")]
            listening: None,
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn listening(mut self, listening: crate::redis::Listening) -> Self {
        self.listening = Some(listening);
        self
    }

    /// The next delivery; `None` once the bus is closed. Nothing is lost when the future is dropped early.
    pub async fn recv(&mut self) -> Option<BusDelivery> {
        std::future::poll_fn(|cx| {
            // A reader that always finds something still gives way to others from time to time.
            let budget = ready!(coop::poll_proceed(cx));
            let delivery = ready!(self.queue.poll(cx));
            budget.made_progress();
            Poll::Ready(delivery)
        })
        .await
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.queue.discard();
    }
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").field("bytes", &self.queue.lock().bytes).finish_non_exhaustive()
    }
}

/// When it is full the newest frame goes: unlike hints, frames make sense in their order only, so what is there already
/// is worth most, and the gap is told at its place.
pub(crate) struct Queue {
    max_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    deliveries: VecDeque<BusDelivery>,
    bytes: usize,
    closed: bool,
    waker: Option<Waker>,
}

/// What a frame costs besides its bytes, so that empty ones are bounded too.
const COST: usize = 64;

impl Queue {
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, state: Mutex::default() }
    }

    /// Never waits.
    pub(crate) fn push(&self, frame: Bytes) {
        let mut state = self.lock();
        let bytes = state.bytes.saturating_add(frame.len() + COST);
        // One frame always fits, whatever the bound.
        if bytes <= self.max_bytes || state.bytes == 0 {
            state.bytes = bytes;
            self.add(state, BusDelivery::Frame(frame));
        } else if let Some(BusDelivery::Lagged(missed)) = state.deliveries.back_mut() {
            *missed = missed.saturating_add(1);
        } else {
            self.add(state, BusDelivery::Lagged(1));
        }
    }

    #[cfg(feature = "redis")]
    pub(crate) fn interrupt(&self) {
        let state = self.lock();
        if state.deliveries.back() != Some(&BusDelivery::Interrupted) {
            self.add(state, BusDelivery::Interrupted);
        }
    }

    /// Forgets an interruption of the time before anyone had the inbox.
    #[cfg(feature = "redis")]
    pub(crate) fn begin(&self) {
        self.lock().deliveries.retain(|delivery| *delivery != BusDelivery::Interrupted);
    }

    /// Accepts nothing more; what is queued can still be read.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        wake(state);
    }

    fn add(&self, mut state: MutexGuard<'_, State>, delivery: BusDelivery) {
        if !state.closed {
            state.deliveries.push_back(delivery);
            wake(state);
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<Option<BusDelivery>> {
        let mut state = self.lock();
        match state.deliveries.pop_front() {
            Some(delivery) => {
                if let BusDelivery::Frame(frame) = &delivery {
                    state.bytes = state.bytes.saturating_sub(frame.len() + COST);
                }
                Poll::Ready(Some(delivery))
            }
            None if state.closed => Poll::Ready(None),
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn discard(&self) {
        let discarded = std::mem::replace(&mut *self.lock(), State { closed: true, ..State::default() });
        drop(discarded);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    use super::*;

    fn read(queue: &Queue) -> Poll<Option<BusDelivery>> {
        queue.poll(&Context::from_waker(Waker::noop()))
    }

    fn is_frame(delivery: &Poll<Option<BusDelivery>>, size: usize) -> bool {
        matches!(delivery, Poll::Ready(Some(BusDelivery::Frame(frame))) if frame.len() == size)
    }

    #[test]
    fn a_full_inbox_keeps_what_it_has_and_tells_the_gap_at_its_place() {
        let queue = Queue::new(1100);
        for size in [500, 400, 200, 900] {
            queue.push(vec![0; size].into());
        }
        assert!(is_frame(&read(&queue), 500));
        queue.push(vec![0; 7].into());
        assert!(is_frame(&read(&queue), 400));
        assert_eq!(read(&queue), Poll::Ready(Some(BusDelivery::Lagged(2))));
        assert!(is_frame(&read(&queue), 7));
        assert!(read(&queue).is_pending());
    }

    #[test]
    fn one_frame_always_fits() {
        let queue = Queue::new(1);
        queue.push(vec![0; 50].into());
        queue.push(vec![0; 1].into());
        assert!(is_frame(&read(&queue), 50));
        assert_eq!(read(&queue), Poll::Ready(Some(BusDelivery::Lagged(1))));
        queue.close();
        queue.push(Bytes::new());
        assert_eq!(read(&queue), Poll::Ready(None));
    }
}
