//! Where the server is, and the limits.

use std::fmt;
use std::time::Duration;

use super::place::Place;
use crate::TargetError;

/// What a [target](crate::EventTarget::redis) or [bus](crate::Bus::redis) on Redis can be told besides its URL.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Begins every channel's name, so that clusters of hubs can share a server. Hubs with another prefix are strangers.
    pub prefix: String,
    /// Messages queued per subscriber of a target.
    pub capacity: usize,
    /// Bytes of frames queued per inbox of a bus.
    pub inbox_bytes: usize,
    /// Longest wait for a connection or an answer; then the server counts as away.
    pub timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "hub:".to_owned(),
            capacity: crate::DEFAULT_CAPACITY,
            inbox_bytes: crate::DEFAULT_INBOX_BYTES,
            timeout: Duration::from_secs(5),
        }
    }
}

impl RedisOptions {
    /// The same options with another prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The same options with another capacity per subscriber.
    #[must_use]
    pub fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The same options with another bound of an inbox.
    #[must_use]
    pub fn with_inbox_bytes(mut self, bytes: usize) -> Self {
        self.inbox_bytes = bytes;
        self
    }

    /// The same options with another longest wait.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A checked URL with its options.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) place: Place,
    pub(crate) options: RedisOptions,
}

/// Without the client, which knows the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn new(url: &str, options: RedisOptions) -> Result<Self, TargetError> {
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Without one TLS would panic later. It only fails when another thread was faster, which is as good.
            _ = rustls::crypto::ring::default_provider().install_default();
        }
        let place = Place::parse(url, &options.prefix)?;
        Ok(Self { place, options })
    }

    /// The channel of what `kind` and `name` say.
    pub(crate) fn channel(&self, kind: &str, name: &str) -> String {
        [self.options.prefix.as_str(), kind, name].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_never_repeated() {
        let check = |url: &str| Settings::new(url, RedisOptions::default());
        for url in [
            "redis://h",
            "redis://u:p%40w@h:1/2",
            "rediss://:pw@h/",
            "unix:///tmp/x.sock?db=1",
            "redis://[::1]:1",
            "redis+sentinel://a/main",
            "rediss+sentinel://u:pw@a:1,[::1],b/main/2",
            "redis+cluster://a",
            "rediss+cluster://u:pw@a:1,[::1],b/",
        ] {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "h:6379",
            "http://h",
            "redis://:secret@h:x",
            "redis://:secret@h?sslrootcert=/dev/null",
            "rediss://:secret@h?sslrootcert=/no/such/file",
            "rediss://:secret@h?sslrootcert=/dev/null",
            "redis+else://:secret@h",
            "redis://:secret@a,b",
            "redis+cluster://:secret@",
            "redis+cluster://:secret@a,",
            "redis+cluster://:secret@a:x,b",
            "redis+cluster://:secret@a,b/1",
            "redis+sentinel://:secret@a,b",
            "redis+sentinel://:secret@a/",
            "redis+sentinel://:secret@a:x/main",
        ] {
            let error = check(url).expect_err(url);
            assert!(matches!(error, TargetError::InvalidUrl(_)), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", check("redis://:secret@h")).contains("secret"));
    }
}
