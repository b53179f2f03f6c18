//! One word for several connections.

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::link::State;
use crate::Connectivity;

/// Follows connections in a task of its own.
pub(crate) struct Health {
    now: watch::Receiver<Connectivity>,
    _task: JoinSet<()>,
}

impl Health {
    pub(crate) fn start(mut links: [watch::Receiver<State>; 2]) -> Self {
        let (sender, now) = watch::channel(of_all(&links));
        let mut task = JoinSet::new();
        task.spawn(async move {
            loop {
                let [one, other] = &mut links;
                // A link is dropped together with this.
                let changed =
                    tokio::select! { changed = one.changed() => changed, changed = other.changed() => changed };
                links.iter_mut().for_each(watch::Receiver::mark_unchanged);
                let word = of_all(&links);
                sender.send_if_modified(|before| std::mem::replace(before, word) != word);
                if changed.is_err() {
                    return;
                }
            }
        });
        Self { now, _task: task }
    }

    pub(crate) fn now(&self) -> Connectivity {
        *self.now.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Connectivity> {
        self.now.clone()
    }
}

fn of_all(links: &[watch::Receiver<State>; 2]) -> Connectivity {
    let mut word = Connectivity::Connected;
    for link in links {
        match *link.borrow() {
            State::Connected(_) => {}
            State::Connecting => word = Connectivity::Connecting,
            State::Away(reason) => return Connectivity::Away(reason),
        }
    }
    word
}
