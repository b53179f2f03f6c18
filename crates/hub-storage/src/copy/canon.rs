//! One spelling of a row, whichever database it came from.

use hub_protocol::{AccountId, CallId, ConnectionId, HubId, Json, KeyId, SpokeId};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::rows::{Definition, KeyStored, Registration, Setting};
use crate::{AccountRow, AuditRow, CallRow, ClientRow, EdgeRow, EventRow, IdempotencyRow, SecretRow, SpokeRow, Stamp};

/// Feeds its own spelling to a hash; no two different values have the same.
pub(super) trait Canon {
    fn canon(&self, hash: &mut Sha256);
}

/// Bytes with their length before them, so that what follows can't be taken for a part of them.
fn bytes(bytes: &[u8], hash: &mut Sha256) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

impl Canon for String {
    fn canon(&self, hash: &mut Sha256) {
        // As Postgres stores it, which has no NUL.
        match self.contains('\0') {
            true => bytes(self.replace('\0', "\u{fffd}").as_bytes(), hash),
            false => bytes(self.as_bytes(), hash),
        }
    }
}

impl Canon for Vec<u8> {
    fn canon(&self, hash: &mut Sha256) {
        bytes(self, hash);
    }
}

impl Canon for Json {
    fn canon(&self, hash: &mut Sha256) {
        bytes(self.as_bytes(), hash);
    }
}

impl Canon for Stamp {
    fn canon(&self, hash: &mut Sha256) {
        hash.update(self.storable().0.to_be_bytes());
    }
}

impl Canon for bool {
    fn canon(&self, hash: &mut Sha256) {
        hash.update([u8::from(*self)]);
    }
}

impl Canon for f64 {
    fn canon(&self, hash: &mut Sha256) {
        hash.update(self.to_bits().to_be_bytes());
    }
}

impl Canon for Uuid {
    fn canon(&self, hash: &mut Sha256) {
        hash.update(self.as_bytes());
    }
}

impl<T: Canon> Canon for Option<T> {
    fn canon(&self, hash: &mut Sha256) {
        self.is_some().canon(hash);
        if let Some(value) = self {
            value.canon(hash);
        }
    }
}

macro_rules! numbers {
    ($($number:ty)*) => {$(
        impl Canon for $number {
            fn canon(&self, hash: &mut Sha256) {
                hash.update(self.to_be_bytes());
            }
        }
    )*};
}

numbers! { i32 i64 u64 }

macro_rules! ids {
    ($($id:ty)*) => {$(
        impl Canon for $id {
            fn canon(&self, hash: &mut Sha256) {
                self.0.canon(hash);
            }
        }
    )*};
}

ids! { AccountId CallId ConnectionId HubId KeyId SpokeId }

macro_rules! rows {
    ($($row:ident { $($column:ident)* })*) => {$(
        impl Canon for $row {
            fn canon(&self, into: &mut Sha256) {
                // Without `..`: a new column has to be named here.
                let Self { $($column),* } = self;
                $($column.canon(into);)*
            }
        }
    )*};
}

rows! {
    AccountRow { id name kind created_at }
    KeyStored {
        id public_id hash principal account_id name scopes resources tools created_at expires_at revoked_at
        rotated_to last_used_at
    }
    AuditRow { id at actor key_id action target details }
    SpokeRow {
        id name owner spoke_type instance_id started_at connection_id hub_id connected draining version project_id
        host_info labels load agents exposure policy max_in_flight connected_at disconnected_at last_heartbeat_at
    }
    Definition { id operation_id version spec }
    Registration { spoke_id definition_id local active }
    CallRow {
        call_id request_id operation_id version kind parent root depth principal spoke hub_id status input input_size
        input_hash output output_size output_hash error idempotency_key started_at completed_at attempts items cost
    }
    EdgeRow { source target kind }
    IdempotencyRow { principal operation_id key call_id input_hash outcome created_at expires_at }
    EventRow { seq topic kind at payload root }
    ClientRow {
        id name kind config scopes enabled revision created_at updated_at state reason state_at operations
    }
    SecretRow { id client_id name version salt nonce ciphertext created_at rotated_at }
    Setting { key value }
}
