//! What only a server can do: be newer, be slow, be gone, be read by others.

#[path = "support/database.rs"]
mod database;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use database::{Database, run};
use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};
use hub_protocol::Json;
use hub_storage::{NewEvent, PostgresOptions, Stamp, Store, StoreError};
use hub_testkit::servers::{self, Postgres};

fn event(n: usize) -> NewEvent {
    let payload = Json::from(serde_json::json!(n));
    NewEvent { topic: "t".into(), kind: n.to_string(), at: Stamp::now(), payload, root: None }
}

async fn open(url: &str) -> Result<Store, StoreError> {
    Store::open_postgres(url, PostgresOptions::default()).await
}

async fn raw(url: &str) -> AsyncPgConnection {
    AsyncPgConnection::establish(url).await.unwrap()
}

/// Takes the next position by hand, as another hub's transaction does.
const TAKE: &str = "WITH p AS (UPDATE event_position SET last = last + 1 RETURNING last)
    INSERT INTO events (seq, topic, kind, at, payload) SELECT last, 't', 'other', now(), '0' FROM p";

async fn kinds(store: &Store) -> Vec<(u64, String)> {
    store.events().after(0, None, 999).await.unwrap().into_iter().map(|row| (row.seq, row.kind)).collect()
}

#[tokio::test]
async fn newer_database_is_refused_untouched() {
    let database = Database::new();
    open(database.url()).await.unwrap().close().await;
    run(database.url(), "INSERT INTO __diesel_schema_migrations (version) VALUES ('9001')");
    let refused = open(database.url()).await.unwrap_err();
    let StoreError::NewerDatabase { found, known } = &refused else { panic!("{refused}") };
    assert_eq!((found.as_str(), known.as_str()), ("9001", "0005"));
}

#[tokio::test]
async fn migrating_tells_what_it_did() {
    let database = Database::new();
    let all = ["0001_store", "0002_hubs", "0003_clients", "0004_tasks", "0005_key_tools"];
    assert_eq!(Store::pending_postgres(database.url()).await.unwrap(), all);
    assert_eq!(Store::migrate_postgres(database.url()).await.unwrap(), all);
    assert_eq!(Store::pending_postgres(database.url()).await.unwrap(), [""; 0]);
    assert_eq!(Store::migrate_postgres(database.url()).await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_another_program_has_is_left_alone_and_never_shared() {
    let database = Database::new();
    let (url, nothing) =
        (database.url(), "DO $$ BEGIN ASSERT to_regclass('__diesel_schema_migrations') IS NULL; END $$");
    run(url, "CREATE TABLE orders (); CREATE TABLE secrets (); CREATE TYPE leases AS ENUM (); CREATE SCHEMA apart");
    for refused in [
        Store::pending_postgres(url).await.unwrap_err(),
        Store::migrate_postgres(url).await.unwrap_err(),
        open(url).await.unwrap_err(),
    ] {
        assert!(matches!(&refused, StoreError::Taken { names } if *names == ["leases", "secrets"]), "{refused}");
        run(url, nothing);
    }
    // A schema of one's own, and tables of other names.
    open(&format!("{url}?options=-csearch_path%3Dapart"))
        .await
        .unwrap()
        .settings()
        .set("a", Json::null())
        .await
        .unwrap();
    run(url, "DROP TABLE secrets; DROP TYPE leases");
    let store = open(url).await.unwrap();
    assert_eq!(store.settings().get("a").await.unwrap(), None);
    run(url, "DO $$ BEGIN ASSERT to_regclass('orders') IS NOT NULL; END $$");
}

#[tokio::test]
async fn migrations_that_fail_in_the_middle_leave_nothing() {
    let database = Database::new();
    let refuse = "CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
          IF to_regclass('clients') IS NOT NULL THEN RAISE 'no clients here'; END IF; END $$;
        CREATE EVENT TRIGGER refuse ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION refuse()";
    run(database.url(), refuse);
    let refused = open(database.url()).await.unwrap_err();
    assert!(
        matches!(&refused, StoreError::Migrate { source } if source.to_string().contains("no clients")),
        "{refused}"
    );
    let nothing = "DO $$ BEGIN
          ASSERT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace) = 0; END $$";
    run(database.url(), nothing);
    run(database.url(), "DROP EVENT TRIGGER refuse");
    open(database.url()).await.unwrap();
}

#[tokio::test]
async fn many_hubs_migrate_at_once() {
    let database = Database::new();
    let mut opens = tokio::task::JoinSet::new();
    for n in 0..4 {
        let url = database.url().to_owned();
        opens.spawn(async move { open(&url).await.unwrap().events().append(vec![event(n)]).await.unwrap() });
    }
    opens.join_all().await;
    assert_eq!(open(database.url()).await.unwrap().events().last().await.unwrap(), 4);
}

#[tokio::test]
async fn later_position_waits_for_the_earlier_commit() {
    let database = Database::new();
    let store = open(database.url()).await.unwrap();
    let mut other = raw(database.url()).await;
    other.batch_execute(&format!("BEGIN; {TAKE}")).await.unwrap();
    let events = store.events();
    let mut append = std::pin::pin!(events.append(vec![event(1)]));
    // It took position 1 and has not committed: nothing may appear behind it.
    let early = tokio::time::timeout(Duration::from_millis(300), &mut append).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(kinds(&store).await, []);
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(append.await.unwrap()[0].seq, 2);
    assert_eq!(kinds(&store).await, [(1, "other".to_owned()), (2, "1".to_owned())]);
}

#[tokio::test]
async fn rollback_leaves_no_hole() {
    let database = Database::new();
    let store = open(database.url()).await.unwrap();
    let mut other = raw(database.url()).await;
    other.batch_execute(&format!("BEGIN; {TAKE}; {TAKE}")).await.unwrap();
    let events = store.events();
    let (written, ()) = tokio::join!(events.append(vec![event(1)]), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.batch_execute("ROLLBACK").await.unwrap();
    });
    assert_eq!(written.unwrap()[0].seq, 1);
    assert_eq!((kinds(&store).await, store.events().last().await.unwrap()), (vec![(1, "1".to_owned())], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_never_skip() {
    let database = Database::new();
    let stores = [open(database.url()).await.unwrap(), open(database.url()).await.unwrap()];
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..40 {
        let store = stores[n % 2].clone();
        writers.spawn(async move {
            for m in 0..25 {
                // Appends go in groups, settings of hubs and their events one by one.
                store.events().append((0..1 + m % 3).map(event).collect()).await.unwrap();
            }
        });
    }
    let (mut at, reader) = (0, open(database.url()).await.unwrap());
    let wanted: u64 = 40 * (0..25).map(|m| 1 + m % 3).sum::<u64>();
    let since = Instant::now();
    while at < wanted {
        assert!(since.elapsed() < Duration::from_secs(30), "stuck at {at}");
        for row in reader.events().after(at, None, 500).await.unwrap() {
            assert_eq!(row.seq, at + 1);
            at = row.seq;
        }
    }
    writers.join_all().await;
}

#[tokio::test]
async fn exhausted_pool_is_busy() {
    let database = Database::new();
    let options = PostgresOptions { pool: 1, wait: Duration::from_millis(200), ..PostgresOptions::default() };
    let store = Store::open_postgres(database.url(), options).await.unwrap();
    let mut other = raw(database.url()).await;
    other.batch_execute("BEGIN; LOCK TABLE settings").await.unwrap();
    let settings = store.settings();
    let mut waits = std::pin::pin!(settings.set("a", Json::null()));
    assert!(tokio::time::timeout(Duration::from_millis(100), &mut waits).await.is_err());
    let refused = store.events().last().await.unwrap_err();
    assert!(matches!(refused, StoreError::Busy) && refused.is_retryable(), "{refused}");
    other.batch_execute("COMMIT").await.unwrap();
    waits.await.unwrap();
}

#[tokio::test]
async fn long_statement_is_busy() {
    let database = Database::new();
    let options = PostgresOptions { statement_timeout: Duration::from_millis(200), ..PostgresOptions::default() };
    let store = Store::open_postgres(database.url(), options).await.unwrap();
    let mut other = raw(database.url()).await;
    other.batch_execute("BEGIN; LOCK TABLE settings").await.unwrap();
    let refused = store.settings().get("a").await.unwrap_err();
    assert!(matches!(refused, StoreError::Busy), "{refused}");
    other.batch_execute("COMMIT").await.unwrap();
    store.settings().get("a").await.unwrap();
}

#[tokio::test]
async fn standby_is_read_only() {
    let database = Database::new();
    let store = open(database.url()).await.unwrap();
    let name = database.url().rsplit('/').next().unwrap().to_owned();
    run(database.url(), &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    let reading = open(database.url()).await.unwrap();
    for refused in [
        reading.settings().set("a", Json::null()).await.unwrap_err(),
        reading.events().append(vec![event(1)]).await.unwrap_err(),
    ] {
        assert!(matches!(refused, StoreError::ReadOnly) && refused.is_retryable(), "{refused}");
    }
    run(database.url(), &format!("SET TRANSACTION READ WRITE; ALTER DATABASE {name} RESET ALL"));
    // The connections that could only read were given up.
    reading.events().append(vec![event(1)]).await.unwrap();
    store.settings().set("a", Json::null()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_server_is_unavailable_and_comes_back() {
    let mut server = Postgres::start_with(servers::PostgresOptions { durable: true }).unwrap();
    let store = open(&server.url("postgres")).await.unwrap();
    store.events().append(vec![event(0)]).await.unwrap();
    for round in 1..=2 {
        server.kill().unwrap();
        for _ in 0..12 {
            let since = Instant::now();
            let written = store.settings().set("a", Json::null()).await.unwrap_err();
            let read = store.settings().get("a").await.unwrap_err();
            let appended = store.events().append(vec![event(99)]).await.unwrap_err();
            for error in [written, read, appended] {
                assert!(matches!(error, StoreError::Unavailable(_)) && error.is_retryable(), "{error:?}");
            }
            assert!(since.elapsed() < Duration::from_secs(2), "{:?}", since.elapsed());
        }
        server.start_again().unwrap();
        store.settings().set("a", Json::null()).await.unwrap();
        assert_eq!(store.events().append(vec![event(round)]).await.unwrap()[0].seq, round as u64 + 1);
    }
    assert_eq!(kinds(&store).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_across_a_restart_are_written_once() {
    let mut server = Postgres::start_with(servers::PostgresOptions { durable: true }).unwrap();
    let store = open(&server.url("postgres")).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for n in 0..20 {
        let store = store.clone();
        writers.spawn(async move {
            let mut acknowledged = Vec::new();
            for m in 0..60 {
                let kind = n * 1000 + m;
                // One that fails is not tried again here: then at most one of it is there.
                if store.events().append(vec![event(kind)]).await.is_ok() {
                    acknowledged.push(kind.to_string());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            acknowledged
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill().unwrap();
    server.start_again().unwrap();
    let acknowledged: Vec<String> = writers.join_all().await.into_iter().flatten().collect();
    let stored = kinds(&store).await.len() as u64;
    let mut rows: Vec<String> = Vec::new();
    while (rows.len() as u64) < store.events().last().await.unwrap() {
        let page = store.events().after(rows.len() as u64, None, 500).await.unwrap();
        rows.extend(page.into_iter().map(|row| row.kind));
    }
    assert!(stored > 0);
    let unique: std::collections::BTreeSet<_> = rows.iter().collect();
    assert_eq!(unique.len(), rows.len(), "an event is there twice");
    assert!(acknowledged.iter().all(|kind| unique.contains(kind)), "an acknowledged event is gone");
}

#[tokio::test]
async fn addresses_and_encryption() {
    let database = Database::new();
    let url = database.url();
    let ended = |what: &str| format!("{url}?{what}");
    open(&ended("sslmode=disable")).await.unwrap();
    open(&ended("sslmode=prefer")).await.unwrap();
    // The test's server speaks no TLS.
    for demanded in ["sslmode=require", "sslmode=verify-full"] {
        let refused = open(&ended(demanded)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Unavailable(_)), "{demanded}: {refused}");
    }
    for malformed in ["sslmode=nonsense", "sslmode=verify-ca"] {
        let refused = open(&ended(malformed)).await.unwrap_err();
        assert!(matches!(refused, StoreError::Address { .. }), "{malformed}: {refused}");
    }
    for file in ["/no/such.pem", "/dev/null"] {
        let refused = open(&ended(&format!("sslmode=verify-full&sslrootcert={file}"))).await.unwrap_err();
        assert!(matches!(&refused, StoreError::Address { why } if why.contains(file)), "{refused}");
    }
    let secret = open("postgres://me:secret@127.0.0.1:nonsense/x").await.unwrap_err();
    assert!(!format!("{secret:?}").contains("secret"));
    let nobody = open("postgres://me:secret@127.0.0.1:1/x").await.unwrap_err();
    assert!(matches!(nobody, StoreError::Unavailable(_)) && !format!("{nobody:?}").contains("secret"));
    assert!(!format!("{:?}", open(url).await.unwrap()).contains('@'));
}

#[tokio::test]
async fn certificates_are_looked_at_when_asked_for() {
    let server = Postgres::start().unwrap();
    let fixtures = concat!(env!("CARGO_MANIFEST_DIR"), "/../hub-spoke/tests/fixtures");
    let owner = std::fs::metadata(server.folder()).unwrap();
    let sql = |text: &str| run(&server.url("postgres"), text);
    for (setting, name) in [("ssl_cert_file", "localhost.pem"), ("ssl_key_file", "localhost-key.pem")] {
        let file = server.folder().join(name);
        std::fs::copy(format!("{fixtures}/{name}"), &file).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
        sql(&format!("ALTER SYSTEM SET {setting} = '{}'", file.display()));
    }
    sql("ALTER SYSTEM SET ssl = on");
    sql("SELECT pg_reload_conf()");
    let url = |host: &str, mode: &str| format!("postgres://postgres@{host}:{}/postgres?{mode}", server.port());
    let ours = format!("sslmode=verify-full&sslrootcert={fixtures}/ca.pem");
    let until = Instant::now() + Duration::from_secs(10);
    while open(&url("localhost", "sslmode=require")).await.is_err() {
        assert!(Instant::now() < until, "the server does not turn TLS on");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for mode in ["sslmode=prefer", "sslmode=require", &ours] {
        let store = open(&url("localhost", mode)).await.unwrap_or_else(|error| panic!("{mode}: {error}"));
        store.events().last().await.unwrap();
        sql("DO $$ BEGIN ASSERT NOT EXISTS (SELECT FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
             WHERE application_name = 'hub' AND NOT ssl); END $$");
        store.close().await;
    }
    // Issued by nobody that is known, and for another name.
    for (host, mode) in [("localhost", "sslmode=verify-full"), ("127.0.0.1", &*ours)] {
        let refused = open(&url(host, mode)).await.unwrap_err();
        assert!(
            matches!(&refused, StoreError::Unavailable(why) if why.to_string().contains("certificate")),
            "{refused}"
        );
    }
}
