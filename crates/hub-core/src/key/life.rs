use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hub_operations::{now_ms, until};
use hub_protocol::{CallError, ErrorCode};
use tokio::sync::watch;

/// Longest wait without a look at the clock, which may be set while one waits.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Lives known above which those that nobody uses are forgotten.
const MANY: usize = 10_000;

/// Why a key opens nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyEnd {
    /// Somebody has revoked it.
    Revoked,
    /// Its time is over, by itself or by the end of its overlap after a rotation.
    Expired,
}

impl KeyEnd {
    /// For the reason of a close and for errors.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }

    /// What becomes of calls that were made with the key.
    #[must_use]
    pub fn error(self) -> CallError {
        let how = match self {
            Self::Revoked => "was revoked",
            Self::Expired => "has expired",
        };
        CallError::new(ErrorCode::AccessDenied, format!("the key {how}"))
    }
}

/// How long a key lives. All that uses the key (connections, streams, requests) shares it, so that each learns of an
/// end that is decided after the key was checked.
#[derive(Debug, Default)]
pub(crate) struct Life {
    state: watch::Sender<State>,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    revoked: bool,
    /// Milliseconds since the epoch.
    expires_at: Option<u64>,
}

impl State {
    fn end(self, now_ms: u64) -> Option<KeyEnd> {
        if self.revoked {
            return Some(KeyEnd::Revoked);
        }
        self.expires_at.is_some_and(|at| at <= now_ms).then_some(KeyEnd::Expired)
    }
}

impl Life {
    pub(crate) fn revoke(&self) {
        self.state.send_modify(|state| state.revoked = true);
    }

    /// Nothing lengthens the life of a key, so the earlier end counts: a row that was read before a rotation and is
    /// noted after it must not take its end back.
    pub(crate) fn expire_at(&self, at: u64) {
        self.state.send_if_modified(|state| {
            let earlier = state.expires_at.is_none_or(|now| at < now);
            if earlier {
                state.expires_at = Some(at);
            }
            earlier
        });
    }

    pub(crate) fn expires_at(&self) -> Option<u64> {
        self.state.borrow().expires_at
    }

    pub(crate) fn end(&self) -> Option<KeyEnd> {
        self.state.borrow().end(now_ms())
    }

    /// Waits for the end.
    pub(crate) async fn over(&self) -> KeyEnd {
        let mut changes = self.state.subscribe();
        loop {
            let state = *changes.borrow_and_update();
            if let Some(end) = state.end(now_ms()) {
                return end;
            }
            let changed = async {
                if changes.changed().await.is_err() {
                    std::future::pending().await
                }
            };
            match state.expires_at {
                // The sender lives in self, so it only ever tells of changes.
                None => changed.await,
                Some(at) => {
                    let wait = until(at).clamp(Duration::from_millis(1), LOOK_AGAIN);
                    let _changed_or_time = tokio::time::timeout(wait, changed).await;
                }
            }
        }
    }
}

/// The lives of the keys in use, by public id.
#[derive(Default)]
pub(super) struct Lives {
    known: Mutex<HashMap<String, Weak<Life>>>,
}

impl Lives {
    /// Keys that something uses.
    pub(super) fn used(&self) -> Vec<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().filter(|(_, life)| life.strong_count() > 0).map(|(id, _)| id.clone()).collect()
    }

    /// The one life of this key.
    pub(super) fn of(&self, public_id: &str) -> Arc<Life> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(life) = known.get(public_id).and_then(Weak::upgrade) {
            return life;
        }
        if known.len() >= MANY {
            known.retain(|_, life| life.strong_count() > 0);
        }
        let life = Arc::new(Life::default());
        known.insert(public_id.to_owned(), Arc::downgrade(&life));
        life
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_that_is_decided_later_reaches_whoever_waits() {
        let lives = Lives::default();
        let life = lives.of("a");
        let same = lives.of("a");
        let waiting = async { tokio::time::timeout(Duration::from_secs(1), same.over()).await };
        let (end, ()) = tokio::join!(waiting, async { life.revoke() });
        assert_eq!(end.ok(), Some(KeyEnd::Revoked));
        assert_eq!(lives.of("b").end(), None);
    }

    #[tokio::test]
    async fn the_earlier_end_counts() {
        let life = Life::default();
        assert_eq!(life.end(), None);
        life.expire_at(now_ms() + 20);
        life.expire_at(now_ms() + 60_000);
        let end = tokio::time::timeout(Duration::from_secs(2), life.over()).await;
        assert_eq!(end.ok(), Some(KeyEnd::Expired));
        assert!(life.expires_at().is_some_and(|at| at <= now_ms()));
    }
}
