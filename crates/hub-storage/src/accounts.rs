use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::AccountId;

use crate::schema::accounts;
use crate::types::BindId;
use crate::{Stamp, Store, StoreError};

/// Someone who can hold keys.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = accounts)]
pub struct AccountRow {
    /// Id of the account.
    #[diesel(serialize_as = BindId)]
    pub id: AccountId,
    /// Unique name.
    pub name: String,
    /// `admin`, `user` or `service`.
    pub kind: String,
    /// When it was made.
    pub created_at: Stamp,
}

/// Verbs on accounts.
#[derive(Debug)]
pub struct Accounts<'a>(pub(crate) &'a Store);

impl Accounts<'_> {
    /// Makes the account unless one of that name exists; returns the stored one.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when another account has the id, else what the database met.
    pub async fn ensure(&self, row: AccountRow) -> Result<AccountRow, StoreError> {
        on_writer!(self.0, ensure(row))
    }

    /// The account of that name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn by_name(&self, name: &str) -> Result<Option<AccountRow>, StoreError> {
        let name = name.to_owned();
        on_reader!(self.0, by_name(name))
    }

    /// The account of that id.
    ///
    /// # Errors
    /// What the database met.
    pub async fn get(&self, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        on_reader!(self.0, get(id))
    }
}

backends! {
    use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel_async::RunQueryDsl;

    pub(super) async fn ensure(c: &mut Conn, row: AccountRow) -> Result<AccountRow, StoreError> {
        diesel::insert_into(accounts::table)
            .values(row.clone())
            .on_conflict(accounts::name)
            .do_nothing()
            .execute(c)
            .await
            .map_err(StoreError::conflict("account"))?;
        let stored =
            accounts::table.filter(accounts::name.eq(row.name)).select(AccountRow::as_select()).first(c).await?;
        Ok(stored)
    }

    pub(super) async fn by_name(c: &mut Conn, name: String) -> Result<Option<AccountRow>, StoreError> {
        let query = accounts::table.filter(accounts::name.eq(name)).select(AccountRow::as_select());
        Ok(query.first(c).await.optional()?)
    }

    pub(super) async fn get(c: &mut Conn, id: AccountId) -> Result<Option<AccountRow>, StoreError> {
        Ok(accounts::table.find(BindId::from(id)).select(AccountRow::as_select()).first(c).await.optional()?)
    }
}
