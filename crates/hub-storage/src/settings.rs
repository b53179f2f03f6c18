use hub_protocol::Json;

use crate::schema::settings;
use crate::types::BindDoc;
use crate::{Store, StoreError};

/// Verbs on settings: single values under a name.
#[derive(Debug)]
pub struct Settings<'a>(pub(crate) &'a Store);

impl Settings<'_> {
    /// The value under `key`.
    ///
    /// # Errors
    /// What the database met.
    pub async fn get(&self, key: &str) -> Result<Option<Json>, StoreError> {
        let key = key.to_owned();
        on_reader!(self.0, get(key))
    }

    /// Puts a value under `key` unless there is one; answers what is there now.
    ///
    /// # Errors
    /// What the database met.
    pub async fn ensure(&self, key: &str, value: Json) -> Result<Json, StoreError> {
        let key = key.to_owned();
        on_writer!(self.0, ensure(key, value))
    }

    /// Puts a value under `key`, in place of an earlier one. Names that begin with `store.` are the store's own.
    ///
    /// # Errors
    /// What the database met.
    pub async fn set(&self, key: &str, value: Json) -> Result<(), StoreError> {
        let key = key.to_owned();
        on_writer_once!(self.0, set(key, value))
    }
}

backends! {
    use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl};
    use diesel_async::RunQueryDsl;

    pub(crate) async fn get(c: &mut Conn, key: String) -> Result<Option<Json>, StoreError> {
        Ok(settings::table.find(key).select(settings::value).first(c).await.optional()?)
    }

    pub(super) async fn ensure(c: &mut Conn, key: String, value: Json) -> Result<Json, StoreError> {
        diesel::insert_into(settings::table)
            .values((settings::key.eq(&key), settings::value.eq(BindDoc::from(value))))
            .on_conflict_do_nothing()
            .execute(c)
            .await?;
        Ok(settings::table.find(key).select(settings::value).first(c).await?)
    }

    pub(crate) async fn set(c: &mut Conn, key: String, value: Json) -> Result<(), StoreError> {
        let value = BindDoc::from(value);
        diesel::insert_into(settings::table)
            .values((settings::key.eq(key), settings::value.eq(&value)))
            .on_conflict(settings::key)
            .do_update()
            .set(settings::value.eq(&value))
            .execute(c)
            .await?;
        Ok(())
    }
}
