//! What others do to a Postgres between two statements of a verb.

#[path = "support/database.rs"]
mod database;
#[expect(dead_code, reason = "the stories use all of it")]
#[path = "story/make.rs"]
mod make;

use database::{Database, run};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use hub_protocol::CallId;
use hub_storage::{PostgresOptions, Store, StoreError};

async fn open(url: &str) -> Store {
    Store::open_postgres(url, PostgresOptions::default()).await.unwrap()
}

async fn raw(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.unwrap()
}

#[tokio::test]
async fn a_tree_is_of_one_moment() {
    let database = Database::new();
    let store = open(database.url()).await;
    let mut other = raw(database.url()).await;
    other.batch_execute("BEGIN; LOCK TABLE call_edges").await.unwrap();
    let (calls, root) = (store.calls(), CallId::new());
    let (tree, ()) = tokio::join!(calls.tree(root), async {
        // It has read the calls and waits for the edges.
        let waits = "DO $$ BEGIN FOR _ IN 1..1000 LOOP
              EXIT WHEN EXISTS (SELECT FROM pg_locks WHERE relation = 'call_edges'::regclass AND NOT granted);
              PERFORM pg_sleep(0.01);
            END LOOP; END $$";
        other.batch_execute(waits).await.unwrap();
        let later = "INSERT INTO call_edges (source, target, kind) VALUES ('{root}', gen_random_uuid(), 'triggered');
            INSERT INTO calls (call_id, request_id, operation_id, version, kind, root, depth, principal, hub_id, status,
              input_size, output_size, started_at, attempts, items, cost)
            VALUES ('{root}', 'r', 'a.b', '1.0.0', 'query', '{root}', 0, 'p', gen_random_uuid(), 'running', 0, 0, now(), 0, 0, 0);
            COMMIT";
        other.batch_execute(&later.replace("{root}", &root.to_string())).await.unwrap();
    });
    assert_eq!(tree.unwrap(), (vec![], vec![]));
    assert_eq!(store.calls().tree(root).await.unwrap().1.len(), 1);
}

#[tokio::test]
async fn of_two_rotations_at_once_one_is_too_late() {
    let database = Database::new();
    let store = open(database.url()).await;
    let owner = make::account(&store, "ada").await;
    let old = make::key(&owner, "old", 1);
    store.keys().insert(old.clone(), make::audit("a", "b"), make::event("a")).await.unwrap();
    let mut other = raw(database.url()).await;
    other.batch_execute("BEGIN; SELECT FROM api_keys FOR UPDATE").await.unwrap();
    let keys = store.keys();
    let rotate =
        |name| keys.rotate(old.id, make::at(50), make::key(&owner, name, 2), make::audit("a", "b"), make::event("b"));
    let (one, two, ()) = tokio::join!(rotate("one"), rotate("two"), async {
        // Both have found that the key may be rotated.
        let wait = "DO $$ BEGIN FOR _ IN 1..1000 LOOP
              PERFORM pg_stat_clear_snapshot(), pg_sleep(0.01);
              EXIT WHEN (SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock') = 2;
            END LOOP; END $$; COMMIT";
        other.batch_execute(wait).await.unwrap();
    });
    let outcomes = [one, two];
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "{outcomes:?}");
    assert!(outcomes.iter().any(|o| matches!(o, Err(StoreError::Conflict { what: "key" }))), "{outcomes:?}");
    assert_eq!(store.keys().list(true, make::at(2)).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_retention_removes_while_a_store_is_verified_is_not_missing() {
    let database = Database::new();
    let store = open(database.url()).await;
    store.events().append((0..4_500).map(|_| make::event("made")).collect()).await.unwrap();
    let sweep = "DELETE FROM events WHERE seq <= 4000;
        INSERT INTO settings (key, value) VALUES ('store.events_trimmed_to', '4000')";
    let mut swept = false;
    let findings = store.verify(|at| {
        // After the first page.
        if at.table == "events" && !std::mem::replace(&mut swept, true) {
            run(database.url(), sweep);
        }
    });
    assert_eq!(findings.await.unwrap(), []);
    run(database.url(), "DELETE FROM events WHERE seq = 4200");
    let findings = store.verify(|_| {}).await.unwrap();
    assert_eq!(findings, [hub_storage::Finding::EventsMissing { first: 4_200, last: 4_200 }]);
}
