use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id; ids made later in one process sort later.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    )*};
}

ids! {
    /// One call, in the hub's own numbering (UUIDv7, so it sorts by start).
    CallId
    /// One spoke name, kept across its connections.
    SpokeId
    /// One connection of a peer to a hub.
    ConnectionId
    /// One hub process.
    HubId
    /// One API key row.
    KeyId
    /// One account.
    AccountId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ids_sort_later_also_as_text() {
        let ids: Vec<CallId> = (0..1000).map(|_| CallId::new()).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        assert!(ids.is_sorted_by_key(CallId::to_string));
    }

    #[test]
    fn one_spelling_out_and_every_spelling_in() {
        let id: SpokeId = "01920000-0000-7000-8000-00000000000A".parse().unwrap();
        assert_eq!(id.to_string(), "01920000-0000-7000-8000-00000000000a");
        assert_eq!(format!("{id:?}"), id.to_string());
        assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<SpokeId>(&format!("\"{id}\"")).unwrap(), id);
        assert_eq!("0192000000007000800000000000000a".parse::<SpokeId>().unwrap(), id);
    }

    #[test]
    fn other_text_is_refused() {
        for bad in ["", "1", "01920000-0000-7000-8000-00000000000g", "01920000-0000-7000-8000-00000000000a "] {
            assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<KeyId>("1").is_err());
    }
}
