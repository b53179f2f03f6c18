//! The keyring, and how it encrypts secrets (adr/0016).
//!
//! A keyring is a list of versions, each a master key of 32 bytes: the first encrypts, all decrypt. No master key
//! encrypts anything itself. Each record has a key of its own, by HKDF-SHA256 from the master key with a random salt,
//! under AES-256-GCM with a random nonce. Record, owner, name and version are bound to the ciphertext, so that it opens
//! nowhere else.

mod lock;
mod reencrypt;
mod source;

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use secrecy::SecretString;
use uuid::Uuid;
use zeroize::{Zeroize as _, Zeroizing};

use crate::redact::hex;

pub use lock::KeyringLock;
pub use reencrypt::reencrypt;
pub use source::KeyringSource;

/// Length of a master key, and of a record's salt, in bytes.
const KEY_LEN: usize = 32;
const SALT_LEN: usize = 32;

/// Most versions of one keyring.
const MAX_VERSIONS: usize = 100;

/// Longest text of a keyring, in bytes.
const MAX_TEXT: usize = 16 * 1024;

/// Why a keyring can't be used. No text holds a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    /// Not the form `v2:base64,v1:base64`.
    #[error("the keyring is malformed: {0}")]
    Malformed(&'static str),
    /// The file or the command.
    #[error("the keyring can't be read from {from}: {reason}")]
    Unreadable {
        /// The file or program.
        from: String,
        /// What is wrong.
        reason: String,
    },
    /// Another process changes the file.
    #[error("the keyring {path} is being changed by {by}: try again when that has ended")]
    Busy {
        /// The file.
        path: String,
        /// Who.
        by: String,
    },
    /// It is not the one that the secrets are encrypted with.
    #[error("the keyring is not that of the database: {0}")]
    Foreign(String),
    /// A secret needs a version that is not there.
    #[error("the keyring has no version {0}")]
    NoVersion(i32),
    /// A stored secret was changed, or was encrypted for another record.
    #[error("a stored secret does not open: it was changed, or is another's")]
    Tampered,
    /// The hub was given no keyring.
    #[error("this hub has no keyring")]
    None,
    /// The machine gives no random bytes.
    #[error("no random bytes")]
    Random,
}

/// What a ciphertext belongs to.
#[derive(Debug, Clone, Copy)]
pub struct SecretOf<'a> {
    /// Row of the secret.
    pub id: Uuid,
    /// Row of its client.
    pub client: Uuid,
    /// Its name.
    pub name: &'a str,
}

/// An encrypted secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Sealed {
    /// Version of the keyring.
    pub version: i32,
    /// From which its key is derived.
    pub salt: Vec<u8>,
    /// Of the cipher.
    pub nonce: Vec<u8>,
    /// With the cipher's tag at its end.
    pub ciphertext: Vec<u8>,
}

/// Master keys by version; the first encrypts, all decrypt. Their memory is overwritten at the end.
#[derive(Clone)]
pub struct Keyring {
    versions: Vec<(i32, Zeroizing<[u8; KEY_LEN]>)>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.versions.iter().map(|(version, _)| version)).finish()
    }
}

impl Keyring {
    /// A keyring with one new key, as this version.
    ///
    /// # Errors
    /// Without random bytes.
    pub fn generate(version: i32) -> Result<Self, KeyringError> {
        Ok(Self { versions: vec![(version, new_key()?)] })
    }

    /// Reads `v2:base64,v1:base64`.
    ///
    /// # Errors
    /// [`KeyringError::Malformed`], with no part of the text.
    pub fn parse(text: &str) -> Result<Self, KeyringError> {
        let mut versions: Vec<(i32, Zeroizing<[u8; KEY_LEN]>)> = Vec::new();
        for entry in text.trim().split(',').map(str::trim) {
            let (version, key) = entry.split_once(':').ok_or(KeyringError::Malformed("expected v1:base64,v2:…"))?;
            let version = version.strip_prefix('v').and_then(|v| v.parse::<i32>().ok()).filter(|v| *v > 0);
            let version = version.ok_or(KeyringError::Malformed("a version is v1, v2, …"))?;
            if versions.iter().any(|(known, _)| *known == version) || versions.len() == MAX_VERSIONS {
                return Err(KeyringError::Malformed("a version is there twice, or there are too many"));
            }
            versions.push((version, decoded(key)?));
        }
        Ok(Self { versions })
    }

    /// As [`Keyring::parse`] reads it.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        // One allocation, large enough: a string that grows leaves its old memory behind as it is.
        let mut text = Zeroizing::new(String::with_capacity(self.versions.len() * 64));
        for (version, key) in &self.versions {
            let key = Zeroizing::new(STANDARD.encode(key.as_slice()));
            if !text.is_empty() {
                text.push(',');
            }
            text.push_str(&format!("v{version}:"));
            text.push_str(&key);
        }
        text
    }

    /// This keyring with a new version in front.
    ///
    /// # Errors
    /// Without random bytes, or when there are too many versions.
    pub fn rotated(&self) -> Result<Self, KeyringError> {
        let newest = self.versions.iter().map(|(version, _)| *version).max().unwrap_or(0);
        if self.versions.len() >= MAX_VERSIONS || newest == i32::MAX {
            return Err(KeyringError::Malformed("it has too many versions: drop old ones first"));
        }
        let mut versions = vec![(newest + 1, new_key()?)];
        versions.extend(self.versions.iter().cloned());
        Ok(Self { versions })
    }

    /// This keyring without the versions below `least`; the first stays in any case.
    #[must_use]
    pub fn without_below(&self, least: i32) -> Self {
        let first = self.first();
        let kept = self.versions.iter().filter(|(version, _)| *version >= least || *version == first);
        Self { versions: kept.cloned().collect() }
    }

    /// The version that encrypts.
    #[must_use]
    pub fn first(&self) -> i32 {
        self.versions.first().map_or(0, |(version, _)| *version)
    }

    /// All versions, the first first.
    #[must_use]
    pub fn versions(&self) -> Vec<i32> {
        self.versions.iter().map(|(version, _)| *version).collect()
    }

    /// A value for each version that tells whether two keyrings are the same, and nothing about the keys.
    #[must_use]
    pub fn checks(&self) -> BTreeMap<i32, String> {
        let check = |(version, key): &(i32, Zeroizing<[u8; KEY_LEN]>)| {
            let derived = Salt::new(HKDF_SHA256, b"hub keyring check").extract(key.as_slice());
            let mut bytes = [0; KEY_LEN];
            // Fails only for lengths beyond what the hash can give.
            let filled = derived.expand(&[&version.to_be_bytes()], HKDF_SHA256).and_then(|okm| okm.fill(&mut bytes));
            (*version, filled.map(|()| hex(&bytes[..16])).unwrap_or_default())
        };
        self.versions.iter().map(check).collect()
    }

    /// Encrypts a secret with the first version.
    ///
    /// # Errors
    /// Without random bytes.
    pub fn seal(&self, of: &SecretOf<'_>, plain: &[u8]) -> Result<Sealed, KeyringError> {
        let version = self.first();
        let (mut salt, mut nonce) = (vec![0; SALT_LEN], [0; NONCE_LEN]);
        getrandom::fill(&mut salt).map_err(|_| KeyringError::Random)?;
        getrandom::fill(&mut nonce).map_err(|_| KeyringError::Random)?;
        let key = self.record_key(version, of, &salt)?;
        // Room for the tag, so that the plain text is never moved.
        let mut text = Zeroizing::new(Vec::with_capacity(plain.len() + AES_256_GCM.tag_len()));
        text.extend_from_slice(plain);
        let sealed = key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), bound(version, of), &mut *text);
        sealed.map_err(|_| KeyringError::Malformed("the secret is too long"))?;
        Ok(Sealed { version, salt, nonce: nonce.to_vec(), ciphertext: text.to_vec() })
    }

    /// Decrypts a secret.
    ///
    /// # Errors
    /// [`KeyringError::NoVersion`], or [`KeyringError::Tampered`] for a ciphertext that is not this record's.
    pub fn open(&self, of: &SecretOf<'_>, sealed: &Sealed) -> Result<SecretString, KeyringError> {
        let key = self.record_key(sealed.version, of, &sealed.salt)?;
        let nonce = Nonce::try_assume_unique_for_key(&sealed.nonce).map_err(|_| KeyringError::Tampered)?;
        let mut text = Zeroizing::new(sealed.ciphertext.clone());
        let plain = key.open_in_place(nonce, bound(sealed.version, of), &mut text);
        let plain = plain.map_err(|_| KeyringError::Tampered)?;
        let plain = std::str::from_utf8(plain).map_err(|_| KeyringError::Tampered)?;
        Ok(SecretString::from(plain))
    }

    fn record_key(&self, version: i32, of: &SecretOf<'_>, salt: &[u8]) -> Result<LessSafeKey, KeyringError> {
        let master = self.versions.iter().find(|(known, _)| *known == version);
        let (_, master) = master.ok_or(KeyringError::NoVersion(version))?;
        let derived: Prk = Salt::new(HKDF_SHA256, salt).extract(master.as_slice());
        let info = [b"hub secret 1".as_slice(), of.id.as_bytes(), of.name.as_bytes()];
        let okm = derived.expand(&info, &AES_256_GCM).map_err(|_| KeyringError::Malformed("a name is too long"))?;
        Ok(LessSafeKey::new(UnboundKey::from(okm)))
    }
}

/// What must be the same when a secret is decrypted. All but the last part have fixed lengths.
fn bound(version: i32, of: &SecretOf<'_>) -> Aad<Vec<u8>> {
    let parts = [b"hub secret 1".as_slice(), &version.to_be_bytes(), of.id.as_bytes(), of.client.as_bytes()];
    Aad::from([parts.concat().as_slice(), of.name.as_bytes()].concat())
}

fn new_key() -> Result<Zeroizing<[u8; KEY_LEN]>, KeyringError> {
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(key.as_mut_slice()).map_err(|_| KeyringError::Random)?;
    Ok(key)
}

fn decoded(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyringError> {
    let wrong = || KeyringError::Malformed("a key is 32 bytes in base64");
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| wrong())?);
    let mut key = Zeroizing::new([0; KEY_LEN]);
    if bytes.len() != KEY_LEN {
        return Err(wrong());
    }
    key.copy_from_slice(&bytes);
    if key.iter().all(|byte| *byte == 0) {
        key.zeroize();
        return Err(KeyringError::Malformed("a key is all zeroes"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    fn of(name: &str) -> SecretOf<'_> {
        SecretOf { id: Uuid::from_u128(1), client: Uuid::from_u128(2), name }
    }

    #[test]
    fn what_is_sealed_opens_for_the_same_record_only() {
        let ring = Keyring::generate(1).unwrap();
        let sealed = ring.seal(&of("token"), "schlüssel".as_bytes()).unwrap();
        assert_eq!(ring.open(&of("token"), &sealed).unwrap().expose_secret(), "schlüssel");
        let others = [
            of("tokem"),
            SecretOf { id: Uuid::from_u128(3), ..of("token") },
            SecretOf { client: Uuid::from_u128(3), ..of("token") },
        ];
        for other in others {
            assert!(matches!(ring.open(&other, &sealed), Err(KeyringError::Tampered)), "{other:?}");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let ring = Keyring::generate(1).unwrap();
        let sealed = ring.seal(&of("token"), b"value").unwrap();
        let parts: [fn(&mut Sealed) -> &mut Vec<u8>; 3] = [|s| &mut s.salt, |s| &mut s.nonce, |s| &mut s.ciphertext];
        for part in parts {
            for at in 0..part(&mut sealed.clone()).len() {
                let mut changed = sealed.clone();
                part(&mut changed)[at] ^= 1;
                assert!(matches!(ring.open(&of("token"), &changed), Err(KeyringError::Tampered)));
            }
            let mut short = sealed.clone();
            part(&mut short).pop();
            assert!(ring.open(&of("token"), &short).is_err());
        }
        // Under another version with the same key, too.
        let same = Keyring { versions: vec![(2, ring.versions[0].1.clone()), ring.versions[0].clone()] };
        let moved = Sealed { version: 2, ..sealed };
        assert!(matches!(same.open(&of("token"), &moved), Err(KeyringError::Tampered)));
    }

    #[test]
    fn no_two_encryptions_are_alike() {
        let ring = Keyring::generate(1).unwrap();
        let (a, b) = (ring.seal(&of("t"), b"value").unwrap(), ring.seal(&of("t"), b"value").unwrap());
        assert!(a.salt != b.salt && a.nonce != b.nonce && a.ciphertext != b.ciphertext);
        assert_eq!((a.salt.len(), a.ciphertext.len()), (SALT_LEN, 5 + 16));
    }

    #[test]
    fn texts_are_read_back() {
        let ring = Keyring::generate(1).unwrap().rotated().unwrap();
        assert_eq!(ring.versions(), [2, 1]);
        let read = Keyring::parse(&format!(" {}\n", *ring.to_text())).unwrap();
        assert_eq!((read.versions(), read.checks()), (ring.versions(), ring.checks()));
        assert_eq!(ring.without_below(2).versions(), [2]);
        let old = Keyring::parse(ring.to_text().split(',').nth(1).unwrap()).unwrap();
        assert_eq!(old.first(), 1);
        let sealed = old.seal(&of("t"), b"value").unwrap();
        assert!(ring.open(&of("t"), &sealed).is_ok());
        assert!(matches!(ring.without_below(2).open(&of("t"), &sealed), Err(KeyringError::NoVersion(1))));
    }

    #[test]
    fn malformed_texts_are_refused_without_a_word_of_them() {
        let key = STANDARD.encode([7; 32]);
        let zero = STANDARD.encode([0; 32]);
        let short = STANDARD.encode([7; 16]);
        for text in [
            String::new(),
            key.clone(),
            format!("1:{key}"),
            format!("v0:{key}"),
            format!("v1:{short}"),
            format!("v1:{zero}"),
            format!("v1:{key},v1:{key}"),
            format!("v1:{key},"),
            "v1:!!".to_owned(),
        ] {
            let refused = Keyring::parse(&text).unwrap_err().to_string();
            assert!(!refused.contains(&key) && refused.contains("malformed"), "{refused}");
        }
        let shown = format!("{:?}", Keyring::parse(&format!("v1:{key}")).unwrap());
        assert_eq!(shown, "[1]");
    }
}
