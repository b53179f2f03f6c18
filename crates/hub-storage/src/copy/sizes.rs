//! What a copy is about to do, and whether one was left half-way.

use crate::copy::rows::{TABLES, Table};
use crate::schema::*;
use crate::{Store, StoreError};

impl Store {
    /// The number of rows of each table that [`Store::copy_from`] copies, in its order.
    ///
    /// # Errors
    /// What the database met.
    pub async fn sizes(&self) -> Result<Vec<(&'static str, u64)>, StoreError> {
        let mut sizes = Vec::new();
        for table in TABLES {
            sizes.push((table.name(), on_reader!(self, size(table))?));
        }
        Ok(sizes)
    }

    /// Whether [`Store::copy_from`] into this store began and did not come to its end.
    ///
    /// # Errors
    /// What the database met.
    pub async fn is_half_copied(&self) -> Result<bool, StoreError> {
        on_reader!(self, half_copied())
    }
}

backends! {
    use diesel::QueryDsl;
    use diesel::dsl::exists;
    use diesel_async::RunQueryDsl;

    pub(super) async fn size(c: &mut Conn, table: Table) -> Result<u64, StoreError> {
        macro_rules! count {
            ($table:ident) => {
                $table::table.count().get_result::<i64>(c).await?
            };
        }
        let rows = match table {
            Table::Accounts => count!(accounts),
            Table::Keys => count!(api_keys),
            Table::Audit => count!(audit_entries),
            Table::Spokes => count!(spokes),
            Table::Definitions => count!(definitions),
            Table::Registrations => count!(registrations),
            Table::Clients => count!(clients),
            Table::Secrets => count!(secrets),
            Table::Settings => count!(settings),
            Table::Idempotency => count!(idempotency_keys),
            Table::Calls => count!(calls),
            Table::Edges => count!(call_edges),
            Table::Events => count!(events),
        };
        Ok(rows.unsigned_abs())
    }

    pub(super) async fn half_copied(c: &mut Conn) -> Result<bool, StoreError> {
        Ok(diesel::select(exists(imports::table.select(imports::name))).get_result(c).await?)
    }
}
