//! Who changes what a name stands for, one after another.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex, MutexGuard};

use super::Directory;

const LANES: usize = 32;

/// Names that share a lane take turns.
#[derive(Default)]
pub(crate) struct Turns {
    lanes: [Lane; LANES],
}

#[derive(Default)]
struct Lane {
    held: Mutex<()>,
    /// Turns that have ended.
    ended: AtomicU64,
}

/// A turn, to its end.
pub(crate) struct Turn<'a> {
    lane: &'a Lane,
    _held: MutexGuard<'a, ()>,
}

/// A moment, to find out later whether a name has changed since.
pub(crate) struct Moment([u64; LANES]);

impl Turns {
    fn lane_of(name: &str) -> usize {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        usize::try_from(hasher.finish() % LANES as u64).unwrap_or(0)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.lane.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Directory {
    /// Waits for the turn to change what a name stands for.
    pub(crate) async fn turn(&self, name: &str) -> Turn<'_> {
        let lane = &self.turns.lanes[Turns::lane_of(name)];
        Turn { lane, _held: lane.held.lock().await }
    }

    /// Now, as [`Directory::turn_since`] takes it.
    pub(crate) fn moment(&self) -> Moment {
        Moment(std::array::from_fn(|lane| self.turns.lanes[lane].ended.load(Ordering::SeqCst)))
    }

    /// Waits for the turn of one who acts on what was read after a moment; `None` when another turn has ended since, so
    /// that it may be old. Is no turn itself for others who ask.
    pub(crate) async fn turn_since(&self, name: &str, moment: &Moment) -> Option<MutexGuard<'_, ()>> {
        let number = Turns::lane_of(name);
        let lane = &self.turns.lanes[number];
        let held = lane.held.lock().await;
        (lane.ended.load(Ordering::SeqCst) == moment.0[number]).then_some(held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_before_another_s_turn_is_old() {
        let directory = Directory::default();
        let moment = directory.moment();
        assert!(directory.turn_since("a", &moment).await.is_some());
        // A second look at the same moment is no reason to distrust it.
        assert!(directory.turn_since("a", &moment).await.is_some());

        // Begun before the moment and ended after it: what was read in between may be either.
        let turn = directory.turn("a").await;
        let moment = directory.moment();
        drop(turn);
        assert!(directory.turn_since("a", &moment).await.is_none());
        assert!(directory.turn_since("a", &directory.moment()).await.is_some());
    }
}
