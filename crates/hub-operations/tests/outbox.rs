//! The queue of what is to be sent on a connection.

use bytes::Bytes;
use hub_operations::Outbox;
use tokio::task::JoinSet;

/// Many calls that are ready at once cost one write, not one each.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_batch_takes_what_all_ready_tasks_have_to_send() {
    let mut inside = JoinSet::new();
    // In a task, since only there the scheduler runs what was woken last first.
    inside.spawn(async {
        let (outbox, mut queued) = Outbox::new(1024);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut batch = Vec::new();
            assert!(queued.next_batch(&mut batch, 1024).await.is_none());
            batch.len()
        });
        tokio::task::yield_now().await;
        for _ in 0..10 {
            let outbox = outbox.clone();
            tasks.spawn(async move { outbox.send(Bytes::from_static(b"{}")).await.map_or(0, |()| 0) });
        }
        tasks.join_all().await.into_iter().max()
    });
    assert_eq!(inside.join_next().await.unwrap().unwrap(), Some(10));
}
