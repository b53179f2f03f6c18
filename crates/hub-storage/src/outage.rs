//! Telling of a server's outage without flooding the log.

use std::fmt::Display;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often an outage that goes on is told of.
const EVERY: Duration = Duration::from_secs(10);

/// An outage is over when something works and nothing has failed for so long: its end may come in fits.
const QUIET: Duration = Duration::from_secs(1);

/// Tells the log when requests to a server begin to fail, every 10 s how many have, and when they work again.
#[derive(Debug)]
pub struct Outage {
    server: String,
    telling: AtomicBool,
    /// Whether there is one, so that what works costs no lock.
    lasts: AtomicBool,
    now: Mutex<Option<Since>>,
}

#[derive(Debug)]
struct Since {
    began: Instant,
    failed: Instant,
    told: Instant,
    failures: u64,
}

impl Outage {
    /// Of a server by its address, which must hold no secret. Nothing is told yet.
    #[must_use]
    pub fn of(server: impl Into<String>) -> Self {
        let silent = AtomicBool::new(false);
        Self { server: server.into(), telling: silent, lasts: AtomicBool::new(false), now: Mutex::default() }
    }

    /// Tells of outages from here on.
    pub fn tell(&self) {
        self.telling.store(true, Ordering::Relaxed);
    }

    /// As [`Outage::tell`].
    #[must_use]
    pub fn telling(self) -> Self {
        self.tell();
        self
    }

    /// Notes that a request has failed.
    pub fn failed(&self, error: &dyn Display) {
        if !self.telling.load(Ordering::Relaxed) {
            return;
        }
        let failures = self.note_failure(Instant::now());
        match failures {
            Some(1) => tracing::warn!(server = %self.server, %error, "requests to a server fail: it is tried again"),
            Some(failures) => {
                tracing::warn!(server = %self.server, %error, failures, "requests to a server still fail")
            }
            None => tracing::debug!(server = %self.server, %error, "a request to a server failed"),
        }
    }

    /// Notes that a request has worked.
    pub fn worked(&self) {
        if self.lasts.load(Ordering::Relaxed)
            && let Some((lasted, failures)) = self.note_success(Instant::now())
        {
            let seconds = lasted.as_secs_f64().round();
            tracing::info!(server = %self.server, failures, seconds, "requests to a server work again");
        }
    }

    /// Failures so far, if they are to be told.
    fn note_failure(&self, at: Instant) -> Option<u64> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        self.lasts.store(true, Ordering::Relaxed);
        let Some(since) = now.as_mut() else {
            *now = Some(Since { began: at, failed: at, told: at, failures: 1 });
            return Some(1);
        };
        since.failures += 1;
        since.failed = at;
        let due = at.duration_since(since.told) >= EVERY;
        due.then(|| {
            since.told = at;
            since.failures
        })
    }

    /// How long the outage has lasted and how many requests it has cost, if it is over.
    fn note_success(&self, at: Instant) -> Option<(Duration, u64)> {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let over = now.take_if(|since| at.duration_since(since.failed) >= QUIET)?;
        self.lasts.store(false, Ordering::Relaxed);
        Some((over.failed.duration_since(over.began), over.failures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_told_of_at_its_begin_every_ten_seconds_and_at_its_end() {
        let outage = Outage::of("server");
        let start = Instant::now();
        let after = |ms: u64| start + Duration::from_millis(ms);
        assert_eq!(outage.note_success(after(0)), None);
        let told: Vec<u64> = (0..100).filter_map(|n| outage.note_failure(after(n * 250))).collect();
        assert_eq!(told, [1, 41, 81]);
        // In between some work, and the outage goes on.
        assert_eq!(outage.note_success(after(25_000)), None);
        assert_eq!(outage.note_failure(after(25_500)), None);
        assert_eq!(outage.note_success(after(26_499)), None);
        assert_eq!(outage.note_success(after(26_500)), Some((Duration::from_millis(25_500), 101)));
        assert_eq!(outage.note_success(after(30_000)), None);
        assert_eq!(outage.note_failure(after(30_000)), Some(1));
    }
}
