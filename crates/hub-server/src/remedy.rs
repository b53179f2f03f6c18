use hub_pubsub::TargetError;
use hub_storage::StoreError;

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
        StoreError::ReadOnly => READ_ONLY,
        _ if says(&["readonly database", "read-only transaction"]) => READ_ONLY,
        StoreError::Unavailable(_) => "is its server running, and are address, role and password right?",
        StoreError::Open { .. } => "is it a hub's database, and may this user read and write it and its folder?",
        _ if says(&["file is not a database"]) => "give the hub a folder of its own, or put a backup in its place",
        StoreError::Migrate { .. } if says(&["already exists"]) => {
            "another program has tables there: give the hub a database of its own"
        }
        StoreError::Migrate { .. } => "the hub must be allowed to make and change tables there",
        _ => return None,
    })
}

const READ_ONLY: &str = "the hub must be allowed to write: name the server that takes writes, not a standby, and a file \
                         and folder that its user may write";
