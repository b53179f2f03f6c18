//! The keyring in use, and the secrets of clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use hub_operations::Scrubber;
use hub_storage::{Agreement, ClientRow, SecretRow, Store};
use secrecy::{ExposeSecret, SecretString};

use crate::keyring::{Keyring, KeyringError, KeyringSource, Sealed, SecretOf};
use crate::{CoreError, redact};

/// How often the keyring is read again when it is not the database's.
const RELOADS: usize = 3;

/// Reads the keyring when it is needed, and notices when it is not that of the database.
#[derive(Default)]
pub(crate) struct Vault {
    source: Option<KeyringSource>,
    /// What was read last; the source is read again before anything is encrypted, since it may have been rotated.
    known: Mutex<Option<Arc<Keyring>>>,
    trouble: Mutex<Option<String>>,
}

/// A client with the values of its secrets, for who connects to it.
pub struct OpenedClient {
    /// The client.
    pub row: ClientRow,
    /// Values by name.
    pub secrets: BTreeMap<String, SecretString>,
}

impl std::fmt::Debug for OpenedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut f = f.debug_struct("OpenedClient");
        f.field("name", &self.row.name).field("revision", &self.row.revision).finish_non_exhaustive()
    }
}

impl OpenedClient {
    /// A text without this client's secrets, plain or encoded: errors of others may quote what they were sent.
    #[must_use]
    pub fn scrub(&self, text: &str) -> String {
        let text = redact::keys_in_text(text);
        self.scrubber().text(&text).unwrap_or_else(|| text.into_owned())
    }

    /// What takes this client's secrets out of texts, to be kept for as long as the client is in use.
    #[must_use]
    pub fn scrubber(&self) -> Scrubber {
        Scrubber::of(self.secrets.values().map(ExposeSecret::expose_secret))
    }
}

impl Vault {
    pub(crate) fn new(source: Option<KeyringSource>) -> Self {
        if let Some(source) = &source {
            source.remove_unfinished();
        }
        Self { source, ..Self::default() }
    }

    /// Why secrets can't be used now, for people; `None` when they can, or nobody has tried.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Encrypts a secret, making a keyring if there has never been one.
    pub(crate) async fn seal(&self, store: &Store, of: &SecretOf<'_>, plain: &[u8]) -> Result<Sealed, CoreError> {
        let ring = self.noted(self.current(store, true).await)?;
        Ok(ring.seal(of, plain)?)
    }

    /// A client's secrets, decrypted.
    pub(crate) async fn open(&self, store: &Store, row: ClientRow) -> Result<OpenedClient, CoreError> {
        let rows = store.secrets().list(Some(row.id)).await?;
        let mut secrets = BTreeMap::new();
        for secret in rows {
            let ring = self.with_version(store, secret.version).await?;
            let plain = open(&ring, &secret).inspect_err(|_| {
                tracing::error!(client = %row.name, secret = %secret.name, "a stored secret does not open");
            })?;
            secrets.insert(secret.name, plain);
        }
        Ok(OpenedClient { row, secrets })
    }

    /// Looks whether the keyring can be used, without making one.
    pub(crate) async fn check(&self, store: &Store) -> Result<(), CoreError> {
        match self.current(store, false).await {
            Err(CoreError::Keyring(KeyringError::None)) => self.noted(Ok(())),
            other => self.noted(other.map(drop)),
        }
    }

    async fn with_version(&self, store: &Store, version: i32) -> Result<Arc<Keyring>, CoreError> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known.filter(|ring| ring.versions().contains(&version)) {
            Some(ring) => Ok(ring),
            None => self.noted(self.current(store, false).await),
        }
    }

    /// Reads the keyring and compares it with the database's.
    async fn current(&self, store: &Store, make: bool) -> Result<Arc<Keyring>, CoreError> {
        let source = self.source.as_ref().ok_or(KeyringError::None)?;
        let mut ring = match source.load().await? {
            Some(ring) => ring,
            None => {
                let version = next_version(store).await?;
                if !make {
                    return Err(KeyringError::None.into());
                }
                source.create(version).await?
            }
        };
        let mut reloads = 0..RELOADS;
        while let Err(foreign) = agreed(&compared(store, &ring, make).await?) {
            // It may have been rotated since it was read.
            let read = if reloads.next().is_some() { source.load().await? } else { None };
            ring = read.filter(|read| read.checks() != ring.checks()).ok_or(foreign)?;
        }
        let ring = Arc::new(ring);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&ring));
        Ok(ring)
    }

    /// Remembers what is wrong with the keyring, or that nothing is.
    fn noted<T>(&self, result: Result<T, CoreError>) -> Result<T, CoreError> {
        let now = match &result {
            Ok(_) => None,
            Err(CoreError::Keyring(error)) => Some(for_callers(error)),
            Err(_) => return result,
        };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Err(error), true) = (&result, *trouble != now) {
            tracing::error!(error = %crate::error::chain(error), "secrets can't be used");
        }
        *trouble = now;
        result
    }
}

/// How a keyring compares with the database's. Before something is encrypted with it, one that is newer than all that
/// was before takes the place of one that no stored secret needs.
async fn compared(store: &Store, ring: &Keyring, encrypts: bool) -> Result<Agreement, CoreError> {
    let found = store.secrets().agree(ring.checks()).await?;
    if encrypts && !found.lacking.is_empty() && store.secrets().begin_anew(ring.checks()).await? {
        return Ok(Agreement::default());
    }
    Ok(found)
}

/// The version that a keyring may begin with where there is none: one that no key ever had.
///
/// # Errors
/// [`KeyringError::Foreign`] while secrets are stored: they need the keyring that is gone.
pub async fn next_version(store: &Store) -> Result<i32, CoreError> {
    let known = store.secrets().agree(BTreeMap::new()).await?;
    if !store.secrets().versions().await?.is_empty() {
        agreed(&known)?;
    }
    Ok(known.lacking.last().map_or(1, |newest| newest.saturating_add(1)))
}

fn open(ring: &Keyring, row: &SecretRow) -> Result<SecretString, KeyringError> {
    ring.open(&SecretOf { id: row.id, client: row.client_id, name: &row.name }, &Sealed::of(row))
}

/// What callers are told: no paths.
pub(crate) fn for_callers(error: &KeyringError) -> String {
    match error {
        KeyringError::Unreadable { .. } => "the hub can't read its keyring; its log says why".to_owned(),
        KeyringError::Busy { .. } => "the hub's keyring is being changed: try again".to_owned(),
        other => other.to_string(),
    }
}

/// Whether a keyring may be used with the database.
///
/// # Errors
/// [`KeyringError::Foreign`], saying what to do.
pub fn agreed(agreement: &Agreement) -> Result<(), KeyringError> {
    let list = |versions: &[i32]| versions.iter().map(|v| format!("v{v}")).collect::<Vec<_>>().join(", ");
    if !agreement.differing.is_empty() {
        let text = format!(
            "its {} is another key; take the keyring of the other hubs, or of the backup",
            list(&agreement.differing)
        );
        return Err(KeyringError::Foreign(text));
    }
    if !agreement.lacking.is_empty() {
        let text = format!("it lacks {}; copy the keyring from where it was made or rotated", list(&agreement.lacking));
        return Err(KeyringError::Foreign(text));
    }
    Ok(())
}
