use hub_storage::{SecretRow, Store};
use secrecy::ExposeSecret as _;

use super::{Keyring, Sealed, SecretOf};
use crate::CoreError;

/// Secrets that are encrypted anew in one transaction.
const BATCH: u32 = 100;

/// Encrypts every secret of an older version with the keyring's first; answers how many. May be ended at any moment,
/// also by the death of the process, and called again: what is done is done.
///
/// # Errors
/// When the keyring is not that of the store, a secret does not open, or the store fails.
pub async fn reencrypt(store: &Store, ring: &Keyring, mut progress: impl FnMut(u64) + Send) -> Result<u64, CoreError> {
    let (mut after, mut done) = (None, 0);
    loop {
        let rows = store.secrets().of_other_versions(ring.first(), after, BATCH).await?;
        let Some(last) = rows.last() else { return Ok(done) };
        after = Some(last.id);
        let pairs: Result<Vec<_>, CoreError> = rows.into_iter().map(|row| anew(ring, row)).collect();
        done += store.secrets().reencrypt(pairs?).await?;
        progress(done);
    }
}

fn anew(ring: &Keyring, row: SecretRow) -> Result<(SecretRow, SecretRow), CoreError> {
    let of = SecretOf { id: row.id, client: row.client_id, name: &row.name };
    let plain = ring.open(&of, &Sealed::of(&row))?;
    let Sealed { version, salt, nonce, ciphertext } = ring.seal(&of, plain.expose_secret().as_bytes())?;
    let new = SecretRow { version, salt, nonce, ciphertext, ..row.clone() };
    Ok((row, new))
}

impl Sealed {
    /// As a row holds it.
    pub(crate) fn of(row: &SecretRow) -> Self {
        let SecretRow { version, salt, nonce, ciphertext, .. } = row.clone();
        Self { version, salt, nonce, ciphertext }
    }
}
