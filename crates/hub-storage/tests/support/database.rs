//! Databases for tests, on the server that `HUB_TEST_POSTGRES_URL` names.

use diesel_async::{AsyncConnection, AsyncPgConnection, SimpleAsyncConnection};

/// An empty database, dropped at the end.
pub(crate) struct Database {
    url: String,
    name: String,
}

impl Database {
    pub(crate) fn new() -> Self {
        let name = format!("hub_test_{}", uuid::Uuid::now_v7().simple());
        run(&server(), &format!("CREATE DATABASE {name}"));
        Self { url: renamed(&server(), &name), name }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        run(&server(), &format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

#[expect(clippy::disallowed_methods, reason = "tests are told by the environment where their server is")]
fn server() -> String {
    std::env::var("HUB_TEST_POSTGRES_URL")
        .unwrap_or_else(|_| panic!("HUB_TEST_POSTGRES_URL is not set: run `cargo xtask test`"))
}

/// The same server's database of another name.
fn renamed(url: &str, name: &str) -> String {
    let (base, query) = url.split_once('?').map_or((url, ""), |(base, query)| (base, query));
    let (server, _) = base.rsplit_once('/').unwrap();
    let query = if query.is_empty() { String::new() } else { format!("?{query}") };
    format!("{server}/{name}{query}")
}

/// Runs statements from outside of any runtime, since it is called when a test's has ended.
pub(crate) fn run(url: &str, sql: &str) {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            AsyncPgConnection::establish(&url).await.unwrap().batch_execute(&sql).await.unwrap();
        });
    };
    std::thread::spawn(work).join().unwrap();
}
