//! API keys: `hub_` + public id (10 characters) + `_` + secret (43 characters), all of 0-9 A-Z a-z.
//!
//! The secret has 256 bits from the system's generator, so a plain SHA-256 of the text is stored: there is nothing a
//! password hash would slow down. The public id names the key in lists and logs and lets scanners recognise a leak.

use std::collections::HashMap;
use std::sync::Arc;

use hub_protocol::{AccountId, Identity, KeyId};
use hub_storage::{KeyRow, Stamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::CoreError;

mod life;

pub use life::KeyEnd;
use life::{Life, Lives};

/// How every key begins.
pub(crate) const PREFIX: &str = "hub_";

const PUBLIC_LEN: usize = 10;
const SECRET_LEN: usize = 43;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A key that has just been made; its text exists only here.
pub(crate) struct NewKey {
    pub(crate) public_id: String,
    text: String,
}

impl NewKey {
    /// Draws a key.
    pub(crate) fn generate() -> Result<Self, CoreError> {
        let public_id = random_text(PUBLIC_LEN)?;
        let text = format!("{PREFIX}{public_id}_{}", random_text(SECRET_LEN)?);
        Ok(Self { public_id, text })
    }

    /// The whole key.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    #[cfg(test)]
    pub(crate) fn secret(&self) -> &str {
        &self.text[PREFIX.len() + PUBLIC_LEN + 1..]
    }

    /// What is stored of it.
    pub(crate) fn hash(&self) -> Vec<u8> {
        hash(&self.text)
    }
}

/// Uniform letters: bytes that would favour some are drawn again.
fn random_text(len: usize) -> Result<String, CoreError> {
    let mut text = String::with_capacity(len);
    let mut bytes = [0u8; 64];
    while text.len() < len {
        getrandom::fill(&mut bytes).map_err(|_| CoreError::Random)?;
        let letters = bytes.iter().filter(|b| **b < 248).map(|b| char::from(ALPHABET[usize::from(*b) % 62]));
        text.extend(letters.take(len - text.len()));
    }
    Ok(text)
}

fn hash(text: &str) -> Vec<u8> {
    Sha256::digest(text.as_bytes()).to_vec()
}

/// Lengths of the public and the secret part, when `after_prefix` begins with both.
pub(crate) fn secret_span(after_prefix: &str) -> Option<(usize, usize)> {
    let letters = |text: &str| text.bytes().take_while(u8::is_ascii_alphanumeric).count();
    let public = letters(after_prefix);
    let rest = after_prefix[public..].strip_prefix('_')?;
    let secret = letters(rest);
    (public >= 4 && secret >= 16).then_some((public, secret))
}

/// The public id in a key's text, if it has the form of a key.
fn public_id(text: &str) -> Option<&str> {
    let (public, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    (public.len() == PUBLIC_LEN && secret.len() == SECRET_LEN).then_some(public)
}

/// Who holds a key, as checked at the door.
#[derive(Debug, Clone)]
pub struct Principal {
    /// Id, scopes, resources.
    pub identity: Arc<Identity>,
    /// The key in use; `None` for the hub itself and for embedders.
    pub key: Option<Arc<KeyInfo>>,
}

/// What is known of the key in use.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KeyInfo {
    /// Row id.
    pub id: KeyId,
    /// Public part.
    pub public_id: String,
    /// For people.
    pub name: String,
    /// Owner.
    pub account_id: AccountId,
    /// Owner's name.
    pub account: String,
    /// Patterns of the operations that are tools of their own for the holder.
    #[serde(default)]
    pub tools: Vec<String>,
    /// Known where the key was checked, which is where what uses it is ended.
    #[serde(skip)]
    life: Arc<Life>,
}

impl KeyInfo {
    /// When it ends, in milliseconds since the epoch; a rotation makes it earlier.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.life.expires_at()
    }

    /// Whether the key has ended since it was checked.
    #[must_use]
    pub fn end(&self) -> Option<KeyEnd> {
        self.life.end()
    }
}

impl Principal {
    /// The hub itself and whoever embeds it: may do everything.
    #[must_use]
    pub fn root() -> Self {
        let identity = Identity { id: "hub".into(), scopes: vec!["*".into()], resources: None, chain: Vec::new() };
        Self { identity: Arc::new(identity), key: None }
    }

    /// Waits until the key in use is revoked or runs out; for ever when there is none. Whatever is held open for a
    /// principal has to end then.
    pub fn over(&self) -> impl Future<Output = KeyEnd> + Send + use<> {
        let life = self.key.as_ref().map(|key| Arc::clone(&key.life));
        async move {
            match life {
                Some(life) => life.over().await,
                None => std::future::pending().await,
            }
        }
    }

    fn of(row: &KeyRow, life: Arc<Life>) -> Self {
        let identity = Identity {
            id: row.principal.clone(),
            scopes: row.scopes.clone(),
            resources: row.resources.clone(),
            chain: Vec::new(),
        };
        let key = KeyInfo {
            id: row.id,
            public_id: row.public_id.clone(),
            name: row.name.clone(),
            account_id: row.account_id,
            account: row.account.clone(),
            tools: row.tools.clone(),
            life,
        };
        Self { identity: Arc::new(identity), key: Some(Arc::new(key)) }
    }
}

/// How long a checked key may be used without looking at its row again. Revocation on this hub clears it at once.
const CACHE_MS: u64 = 5_000;

/// Most keys remembered; above it all are forgotten and looked up again.
const CACHE_KEYS: usize = 10_000;

/// How often the last use of a key is written, in milliseconds.
const TOUCH_MS: u64 = 60_000;

#[derive(Clone)]
struct Known {
    hash: Vec<u8>,
    principal: Principal,
    seen_at: u64,
}

/// Checks keys at the door.
#[derive(Default)]
pub(crate) struct Doorman {
    known: papaya::HashMap<String, Known>,
    lives: Lives,
}

impl Doorman {
    /// Who holds this key. Every refusal is the same `None`: unknown, wrong, expired and revoked can't be told apart.
    pub(crate) async fn check(&self, store: &hub_storage::Store, text: &str) -> Result<Option<Principal>, CoreError> {
        let now = Stamp::now();
        let Some(id) = public_id(text) else { return Ok(None) };
        let hash = hash(text);
        let known = self.known.pin().get(id).filter(|k| now.millis().saturating_sub(k.seen_at) < CACHE_MS).cloned();
        let known = match known {
            Some(known) => known,
            None => {
                // Before its row is read, so that an end which is stored in between is not missed.
                let life = self.lives.of(id);
                let Some(row) = store.keys().by_public_id(id).await? else { return Ok(None) };
                if row.revoked_at.is_some() {
                    return Ok(None);
                }
                if let Some(at) = row.expires_at {
                    life.expire_at(at.millis());
                }
                let principal = Principal::of(&row, life);
                let known = Known { hash: row.hash.clone(), principal, seen_at: now.millis() };
                if !bool::from(known.hash.ct_eq(&hash)) {
                    return Ok(None);
                }
                if row.last_used_at.is_none_or(|at| now.millis().saturating_sub(at.millis()) > TOUCH_MS) {
                    store.keys().touch(row.id, now).await?;
                }
                self.remember(id, known.clone());
                known
            }
        };
        let valid =
            bool::from(known.hash.ct_eq(&hash)) && known.principal.key.as_ref().is_none_or(|k| k.end().is_none());
        Ok(valid.then_some(known.principal))
    }

    fn remember(&self, id: &str, known: Known) {
        let map = self.known.pin();
        if map.len() >= CACHE_KEYS {
            map.clear();
        }
        map.insert(id.to_owned(), known);
    }

    /// Looks at the row again next time.
    pub(crate) fn forget(&self, public_id: &str) {
        self.known.pin().remove(public_id);
    }

    /// Takes note of what has become of a key elsewhere.
    pub(crate) async fn look_at(&self, store: &hub_storage::Store, public_id: &str) -> Result<(), CoreError> {
        self.forget(public_id);
        let Some(row) = store.keys().by_public_id(public_id).await? else { return Ok(()) };
        if row.revoked_at.is_some() {
            self.revoke(public_id);
        } else if let Some(at) = row.expires_at {
            self.expire_at(public_id, at);
        }
        Ok(())
    }

    /// As [`Doorman::look_at`] for all keys in use.
    pub(crate) async fn look_at_all(&self, store: &hub_storage::Store) -> Result<(), CoreError> {
        let used = self.lives.used();
        if used.is_empty() {
            return Ok(());
        }
        let valid = store.keys().list(false, Stamp::now()).await?;
        let valid: HashMap<&str, &KeyRow> = valid.iter().map(|row| (row.public_id.as_str(), row)).collect();
        for public_id in used {
            match valid.get(public_id.as_str()) {
                Some(row) => row.expires_at.into_iter().for_each(|at| self.expire_at(&public_id, at)),
                None => self.look_at(store, &public_id).await?,
            }
        }
        Ok(())
    }

    /// Ends what uses the key.
    pub(crate) fn revoke(&self, public_id: &str) {
        self.lives.of(public_id).revoke();
    }

    /// Lets what uses the key end at this time, if not before.
    pub(crate) fn expire_at(&self, public_id: &str, at: Stamp) {
        self.lives.of(public_id).expire_at(at.millis());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_the_documented_form() {
        let key = NewKey::generate().unwrap();
        assert_eq!(public_id(key.text()), Some(key.public_id.as_str()));
        assert_eq!(key.text().len(), 4 + PUBLIC_LEN + 1 + SECRET_LEN);
        assert_eq!(secret_span(&key.text()[4..]), Some((PUBLIC_LEN, SECRET_LEN)));
        assert_ne!(NewKey::generate().unwrap().text(), key.text());
    }

    #[test]
    fn what_is_no_key_has_no_public_id() {
        for text in ["", "hub_", "hub_a_b", "Bearer x", "hub_0123456789_short"] {
            assert_eq!(public_id(text), None, "{text}");
        }
    }
}
