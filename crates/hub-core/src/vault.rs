//! The keyring in use, and the secrets of clients.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use hub_operations::REDACTED;
use hub_protocol::{CallError, Json};
use hub_storage::{Agreement, ClientRow, SecretRow, Store};
use secrecy::{ExposeSecret, SecretString};

use crate::keyring::{Keyring, KeyringError, KeyringSource, Sealed, SecretOf};
use crate::{CoreError, redact};

/// Shortest secret that is looked for in texts: shorter ones are found by chance.
const MIN_SCRUBBED: usize = 6;

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
        let mut forms = Vec::new();
        for secret in self.secrets.values().map(ExposeSecret::expose_secret) {
            let bytes = secret.as_bytes();
            let quoted = serde_json::to_string(secret).unwrap_or_default();
            let found = [
                secret.to_owned(),
                quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap_or_default().to_owned(),
                STANDARD.encode(bytes).trim_end_matches('=').to_owned(),
                URL_SAFE.encode(bytes).trim_end_matches('=').to_owned(),
                redact::hex(bytes),
                redact::hex(bytes).to_uppercase(),
                percent_encoded(bytes),
                percent_encoded(bytes).to_lowercase(),
            ];
            forms.extend(found.into_iter().filter(|form| form.len() >= MIN_SCRUBBED));
        }
        // The longest first: one secret may begin with another.
        forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
        forms.dedup();
        Scrubber { forms: forms.into_iter().map(SecretString::from).collect() }
    }
}

/// Takes a client's secrets out of texts.
pub struct Scrubber {
    forms: Vec<SecretString>,
}

impl Scrubber {
    /// The text without secrets; `None` when it has none.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<String> {
        let mut clean: Option<String> = None;
        for form in self.forms.iter().map(ExposeSecret::expose_secret) {
            let now = clean.as_deref().unwrap_or(text);
            if now.contains(form) {
                clean = Some(now.replace(form, REDACTED));
            }
        }
        clean
    }

    /// The value without secrets.
    #[must_use]
    pub fn json(&self, value: Json) -> Json {
        match self.text(value.as_str()) {
            None => value,
            // A secret that reads like JSON may leave something else behind.
            Some(text) => Json::from_text(text).unwrap_or_default(),
        }
    }

    /// The error without secrets.
    #[must_use]
    pub fn error(&self, mut error: CallError) -> CallError {
        if let Some(message) = self.text(&error.message) {
            error.message = message;
        }
        error.details = error.details.map(|details| self.json(details));
        error
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let letter = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(letter).collect()
}

impl Vault {
    pub(crate) fn new(source: Option<KeyringSource>) -> Self {
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
        let ring = match source.load().await? {
            Some(ring) => ring,
            None => {
                // Another keyring than the database's would only be in the way of the right one.
                agreed(&store.secrets().agree(BTreeMap::new()).await?)?;
                if !make {
                    return Err(KeyringError::None.into());
                }
                source.create().await?
            }
        };
        agreed(&store.secrets().agree(ring.checks()).await?)?;
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

fn open(ring: &Keyring, row: &SecretRow) -> Result<SecretString, KeyringError> {
    ring.open(&SecretOf { id: row.id, client: row.client_id, name: &row.name }, &Sealed::of(row))
}

/// What callers are told: no paths.
pub(crate) fn for_callers(error: &KeyringError) -> String {
    match error {
        KeyringError::Unreadable { .. } => "the hub can't read its keyring; its log says why".to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_cut_out_in_every_spelling() {
        let row = ClientRow {
            id: uuid::Uuid::nil(),
            name: "c".into(),
            kind: "custom".into(),
            config: Json::null(),
            scopes: None,
            enabled: true,
            revision: 1,
            created_at: hub_storage::Stamp::default(),
            updated_at: hub_storage::Stamp::default(),
            state: String::new(),
            reason: None,
            state_at: None,
            operations: 0,
        };
        let secret = "a/\"b\\c+d e";
        let secrets = [("x".to_owned(), secret.into()), ("short".to_owned(), "abc".into())].into();
        let client = OpenedClient { row, secrets };
        for form in [
            secret,
            "a/\\\"b\\\\c+d e",
            "YS8iYlxjK2QgZQ",
            "YS8iYlxjK2QgZQ==",
            "612f22625c632b642065",
            "a%2F%22b%5Cc%2Bd%20e",
        ] {
            let clean = client.scrub(&format!("before {form} abc after"));
            assert!(clean.starts_with("before [") && clean.ends_with(" abc after") && !clean.contains(form), "{clean}");
        }
        assert!(client.scrubber().text("nothing of it").is_none());
        let error = CallError::new(hub_protocol::ErrorCode::ExecutionError, secret)
            .with_details(&serde_json::json!({ "said": secret }));
        let clean = client.scrubber().error(error);
        assert!(!clean.message.contains("b\\c") && clean.details.is_some_and(|d| !d.as_str().contains("c+d")));
    }
}
