//! `audit.*`: who changed rights and state of the hub.

use uuid::Uuid;

use super::{operation, wire};
use crate::Json;

wire! {
    /// Reads the audit log, newest first.
    #[derive(Default)]
    pub struct ListAudit {
        /// Only this action.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<String>,
        /// Only this actor.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actor: Option<String>,
        /// Only rows older than this one: the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<Uuid>,
        /// Page size, 1 to 1,000; default 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1000))]
        limit: Option<u32>,
    }
    /// Audit rows, newest first.
    pub struct AuditPage {
        /// Newest first.
        entries: Vec<AuditEntry>,
    }
    /// One audit row.
    pub struct AuditEntry {
        /// Row id.
        id: Uuid,
        /// When.
        at: u64,
        /// Who.
        actor: String,
        /// What was done, `area.verb`.
        action: String,
        /// To what.
        target: String,
        /// More; never a secret.
        details: Json,
    }
}

operation!(ListAudit => AuditPage, "audit.list", Query, ["audit:read"],
    "Read the audit log: keys made, rotated and revoked, refused registrations, aborts of others' calls.");
