//! What tells a batch that was written already from a new one.

use crate::calls::BatchMark;
use crate::schema::applied_batches;
use crate::types::BindId;
use crate::{Stamp, StoreError};

backends! {
    use diesel::prelude::{ExpressionMethods, QueryDsl};
    use diesel_async::RunQueryDsl;

    /// `None` for a new batch, which is noted as written; else the position of the first event it was given.
    ///
    /// Where an earlier try of the same batch is still being committed, this waits for its end.
    pub(crate) async fn applied(c: &mut Conn, mark: BatchMark) -> Result<Option<u64>, StoreError> {
        use diesel::query_dsl::methods::FilterDsl;
        let columns = (
            applied_batches::number.eq(mark.number),
            applied_batches::first_seq.eq(0),
            applied_batches::written_at.eq(Stamp::now()),
        );
        let insert = diesel::insert_into(applied_batches::table)
            .values((applied_batches::writer.eq(BindId::from(mark.writer)), columns))
            .on_conflict(applied_batches::writer)
            .do_update()
            .set(columns);
        if FilterDsl::filter(insert, applied_batches::number.lt(mark.number)).execute(c).await? > 0 {
            return Ok(None);
        }
        let last = applied_batches::table.find(BindId::from(mark.writer));
        let last = last.select((applied_batches::number, applied_batches::first_seq));
        match last.first::<(i64, i64)>(c).await? {
            (number, first) if number == mark.number => Ok(Some(first.unsigned_abs())),
            _ => Err(StoreError::Conflict { what: "batch" }),
        }
    }

    /// Notes the position of the first event of the batch.
    pub(crate) async fn done(c: &mut Conn, mark: BatchMark, first: u64) -> Result<(), StoreError> {
        let first = i64::try_from(first).unwrap_or(i64::MAX);
        let row = diesel::update(applied_batches::table.find(BindId::from(mark.writer)));
        row.set(applied_batches::first_seq.eq(first)).execute(c).await?;
        Ok(())
    }

    /// Removes the marks of writers that have been silent since `cutoff`.
    pub(crate) async fn forget(c: &mut Conn, cutoff: Stamp) -> Result<u64, StoreError> {
        let silent = applied_batches::table.filter(applied_batches::written_at.lt(cutoff));
        Ok(diesel::delete(silent).execute(c).await? as u64)
    }
}
