//! The story suite: what every backend of the store must do, told by area.
//!
//! Each story takes a fresh store from a [`Backend`]; the list below is run for each.

mod story {
    pub(crate) mod accounts;
    pub(crate) mod calls;
    pub(crate) mod clients;
    pub(crate) mod events;
    pub(crate) mod group;
    pub(crate) mod hubs;
    pub(crate) mod idempotency;
    pub(crate) mod maintenance;
    pub(crate) mod make;
    pub(crate) mod spokes;
    pub(crate) mod whole;
}

use std::path::PathBuf;

use hub_storage::{PostgresOptions, SqliteOptions, Store};

#[path = "support/database.rs"]
mod database;

/// Where fresh stores come from.
pub(crate) trait Backend {
    /// An empty store, and what must live as long as it.
    fn fresh() -> impl Future<Output = Fresh> + Send;
}

/// An empty store and a folder of its own.
pub(crate) struct Fresh {
    /// The store.
    pub(crate) store: Store,
    /// Its folder, removed at the end.
    pub(crate) folder: tempfile::TempDir,
    /// Its database, removed at the end.
    _database: Option<database::Database>,
}

impl Fresh {
    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(crate) struct Sqlite;

impl Backend for Sqlite {
    async fn fresh() -> Fresh {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await.unwrap();
        Fresh { store, folder, _database: None }
    }
}

pub(crate) struct Postgres;

impl Backend for Postgres {
    async fn fresh() -> Fresh {
        let database = database::Database::new();
        let store = Store::open_postgres(database.url(), PostgresOptions::default()).await.unwrap();
        Fresh { store, folder: tempfile::tempdir().unwrap(), _database: Some(database) }
    }
}

/// Instantiates every story for the backends.
macro_rules! stories {
    ($($all:tt)*) => {
        stories_of! { sqlite: Sqlite; $($all)* }
        stories_of! { postgres: Postgres; $($all)* }
    };
}

/// Instantiates every story for a backend.
macro_rules! stories_of {
    ($name:ident: $backend:ident; $($area:ident { $($story:ident)* })*) => {
        mod $name {$(
            mod $area {$(
                #[tokio::test]
                async fn $story() {
                    crate::story::$area::$story::<$crate::$backend>().await;
                }
            )*}
        )*}
    };
}

stories! {
    accounts {
        ensure_keeps_the_first
        keys_are_read_as_written
        key_needs_account_and_free_name
        rotation_links_and_happens_once
        rotation_keeps_the_earlier_end
        revoking_twice_keeps_the_first_time
        ended_keys_are_listed_on_request
        touch_never_goes_back
        debug_hides_the_hash
        audit_is_paged_and_filtered
        settings_are_replaced
    }
    spokes {
        registering_again_keeps_id_and_owner
        missing_operations_become_inactive
        conflicting_definition_changes_nothing
        conflict_inside_one_registration
        operations_are_added_and_removed
        late_disconnect_of_an_old_connection
        heartbeat_changes_what_it_names
        crash_disconnects_the_hubs_spokes
    }
    calls {
        batch_is_written_whole
        update_in_the_same_batch_and_later
        large_batch_and_odd_sizes
        empty_batch
        failed_batch_leaves_nothing
        unicode_and_huge_payloads
        list_filters
        list_pages
        tree_is_ordered
        export_pages
        stats_count_and_rank
        interrupted_calls_are_closed
        many_interrupted_calls_are_closed
    }
    idempotency {
        second_begin_finds_the_first
        concurrent_begins_make_one_new
        expired_key_is_replaced
        release_frees_only_unfinished
    }
    events {
        positions_grow_and_survive_trimming
        pages_and_trees
    }
    clients {
        clients_are_changed_and_counted
        state_is_noted_once_and_for_its_revision
        secrets_are_replaced_and_go_with_their_client
        reencryption_spares_what_was_set_meanwhile
        keyrings_agree_by_version
        a_keyring_begins_anew_where_no_secret_needs_the_old_one
    }
    maintenance {
        sweep_by_age
        sweep_in_many_chunks
        ping_and_close
    }
    hubs {
        lease_lives_as_long_as_renewed
        renewing_tells_what_is_held
        dead_hubs_are_cleaned_up_once
        spoke_moves_to_the_newer_instance
        racing_hubs_leave_one_holder
        named_lease_has_one_holder
    }
    whole {
        marked_batch_is_written_once
        verify_finds_what_is_broken
        copy_is_the_same
        broken_off_copy_goes_on
        copy_of_a_copy_is_equal
    }
    group {
        failing_job_fails_alone
        dropped_caller_breaks_nothing
        many_writers
    }
}

#[tokio::test]
async fn backup_while_writing() {
    story::maintenance::backup_while_writing::<Sqlite>().await;
}
