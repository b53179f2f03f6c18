use hub_pubsub::TargetError;
use hub_storage::{Refusal, StoreError};

/// What the person who runs the hub can do about an error of its database or its bus.
#[must_use]
pub fn remedy(error: &anyhow::Error) -> Option<&'static str> {
    if let Some(bus) = error.chain().find_map(|cause| cause.downcast_ref::<TargetError>()) {
        return bus.remedy();
    }
    let store = error.chain().find_map(|cause| cause.downcast_ref::<StoreError>())?;
    // The databases have no kinds for these.
    let text = format!("{error:#}");
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Some(match store {
        StoreError::NewerDatabase { .. } => {
            "run the newer hub, or restore a backup from before the update; if there was never a hub, the database is \
             another program's: give the hub one of its own"
        }
        StoreError::Taken { .. } => {
            "give the hub a database of its own, or a schema: CREATE SCHEMA hub, and ?options=-csearch_path%3Dhub in its \
             address"
        }
        StoreError::Address { .. } => {
            "write postgres://user:password@host:port/database, and within user and password %40 for @, %3A for :, %2F \
             for / and %3F for ?"
        }
        StoreError::ReadOnly => READ_ONLY,
        _ if says(&["readonly database", "read-only transaction"]) => READ_ONLY,
        StoreError::Unavailable(_) => of_refusal(store.refusal().unwrap_or(Refusal::Unreachable)),
        StoreError::Open { .. } => "is it a hub's database, and may this user read and write it and its folder?",
        _ if says(&["file is not a database"]) => "give the hub a folder of its own, or put a backup in its place",
        StoreError::Migrate { .. } if says(&["already exists"]) => {
            "another program has tables there: give the hub a database of its own"
        }
        StoreError::Migrate { .. } => "the hub must be allowed to make and change tables there",
        _ => return None,
    })
}

/// What can be done about a Postgres that lets nobody in.
fn of_refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownHost => "is the name of the host right?",
        Refusal::TooManyConnections => {
            "each hub needs 10 connections: raise max_connections of the server, or end what else uses it"
        }
        Refusal::Ended | Refusal::Stranger => "is it a Postgres that listens there?",
        Refusal::NoTls => "turn TLS on at the server, or do without it: sslmode=disable",
        Refusal::Tls => {
            "the certificate must be for the host's name and from a public authority, or from one in the file of \
             sslrootcert"
        }
        Refusal::Password => "is the password right?",
        Refusal::Role => {
            "does the role exist, and does pg_hba.conf of the server let it in from here, with or without TLS?"
        }
        Refusal::Database => "is its name right? make it first: createdb",
        _ => "is its server running, and are host and port right?",
    }
}

const READ_ONLY: &str = "the hub must be allowed to write: name the server that takes writes, not a standby, and a file \
                         and folder that its user may write";
