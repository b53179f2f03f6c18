//! Which channels the subscription connection should be subscribed to, and which it is.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// A channel, or a pattern of channels in Redis' own notation.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Channel(Arc<str>),
    Pattern(Arc<str>),
}

/// Counts who wants what. The connection's owner is woken and makes it true, so that whoever drops a subscription
/// never waits and nothing has to be queued.
#[derive(Default)]
pub(crate) struct Wanted {
    state: Mutex<State>,
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct State {
    counts: HashMap<Name, usize>,
    /// Subscribed on the connection of this generation.
    confirmed: HashSet<Name>,
    generation: u64,
    /// Counts that went from or to zero since the last look.
    touched: HashSet<Name>,
    waiting: Vec<(Name, oneshot::Sender<u64>)>,
}

/// What to tell the server.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) subscribe: Vec<Name>,
    pub(crate) unsubscribe: Vec<Name>,
}

impl Wanted {
    /// Counts one more who wants it. The answer is the generation of the connection that confirmed it; it fails when
    /// that connection was lost first.
    pub(crate) fn add(&self, name: &Name) -> oneshot::Receiver<u64> {
        let (answer, confirmed) = oneshot::channel();
        let mut state = self.lock();
        *state.counts.entry(name.clone()).or_default() += 1;
        if state.confirmed.contains(name) {
            // Nobody is gone yet: the other end is right here.
            _ = answer.send(state.generation);
            return confirmed;
        }
        state.touched.insert(name.clone());
        state.waiting.push((name.clone(), answer));
        drop(state);
        self.changed.notify_one();
        confirmed
    }

    /// Counts one less.
    pub(crate) fn remove(&self, name: &Name) {
        let mut state = self.lock();
        let Some(count) = state.counts.get_mut(name) else { return };
        *count -= 1;
        if *count > 0 {
            return;
        }
        state.counts.remove(name);
        state.touched.insert(name.clone());
        drop(state);
        self.changed.notify_one();
    }

    /// All that a new connection must subscribe to.
    pub(crate) fn all(&self) -> Changes {
        let mut state = self.lock();
        state.touched.clear();
        state.confirmed.clear();
        Changes { subscribe: state.counts.keys().cloned().collect(), unsubscribe: Vec::new() }
    }

    /// What has changed since the last look.
    pub(crate) fn changes(&self) -> Changes {
        let mut state = self.lock();
        let mut changes = Changes::default();
        for name in std::mem::take(&mut state.touched) {
            match (state.counts.contains_key(&name), state.confirmed.contains(&name)) {
                (true, false) => changes.subscribe.push(name),
                (false, true) => {
                    // From here on, who wants it again must wait for a new confirmation.
                    state.confirmed.remove(&name);
                    changes.unsubscribe.push(name);
                }
                _ => {}
            }
        }
        changes
    }

    /// The server has confirmed these on the connection of `generation`.
    pub(crate) fn confirm(&self, names: Vec<Name>, generation: u64) {
        let mut state = self.lock();
        state.generation = generation;
        state.confirmed.extend(names);
        let State { waiting, confirmed, .. } = &mut *state;
        for (_, answer) in waiting.extract_if(.., |(name, _)| confirmed.contains(name)) {
            // Whoever gave up waiting has dropped the other end.
            _ = answer.send(generation);
        }
    }

    /// The connection is gone, and nobody waits for it.
    pub(crate) fn lost(&self) {
        let mut state = self.lock();
        state.confirmed.clear();
        state.waiting.clear();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(text: &str) -> Name {
        Name::Channel(text.into())
    }

    #[test]
    fn the_first_and_the_last_are_told() {
        let wanted = Wanted::default();
        let (mut first, mut second) = (wanted.add(&channel("a")), wanted.add(&channel("a")));
        let changes = wanted.changes();
        assert_eq!(changes.subscribe, [channel("a")]);
        assert!(first.try_recv().is_err());
        wanted.confirm(changes.subscribe, 1);
        assert_eq!((first.try_recv(), second.try_recv()), (Ok(1), Ok(1)));
        assert_eq!(wanted.add(&channel("a")).try_recv(), Ok(1));
        (0..2).for_each(|_| wanted.remove(&channel("a")));
        assert!(wanted.changes().unsubscribe.is_empty());
        wanted.remove(&channel("a"));
        assert_eq!(wanted.changes().unsubscribe, [channel("a")]);
    }

    #[test]
    fn one_that_comes_back_while_it_is_unsubscribed_is_subscribed_anew() {
        let wanted = Wanted::default();
        drop(wanted.add(&channel("a")));
        wanted.confirm(wanted.changes().subscribe, 1);
        wanted.remove(&channel("a"));
        assert_eq!(wanted.changes().unsubscribe, [channel("a")]);
        let mut again = wanted.add(&channel("a"));
        assert!(again.try_recv().is_err());
        wanted.confirm(wanted.changes().subscribe, 1);
        assert_eq!(again.try_recv(), Ok(1));
        // Gone and back between two looks: nothing to tell.
        wanted.remove(&channel("a"));
        drop(wanted.add(&channel("a")));
        let changes = wanted.changes();
        assert!(changes.subscribe.is_empty() && changes.unsubscribe.is_empty(), "{changes:?}");
    }

    #[test]
    fn a_lost_connection_ends_waiting_and_keeps_what_is_wanted() {
        let wanted = Wanted::default();
        let mut waiting = wanted.add(&channel("a"));
        wanted.lost();
        assert_eq!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert_eq!(wanted.all().subscribe, [channel("a")]);
    }
}
