use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _, future, stream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::StreamOperators as _;

fn limits(groups: usize, buffer: usize) -> GroupLimits {
    let count = |n| NonZeroUsize::new(n).expect("not zero");
    GroupLimits { groups: count(groups), buffer: count(buffer) }
}

/// The key is the hundreds.
fn hundreds(n: &u32) -> u32 {
    n / 100
}

#[tokio::test]
async fn items_go_to_their_group_in_order_and_all_end() {
    let mut groups = stream::iter([100, 200, 101, 102, 201]).group_by(limits(4, 4), hundreds);
    let one = groups.next().await.expect("group");
    let two = groups.next().await.expect("group");
    assert_eq!((*one.key(), *two.key()), (1, 2));
    assert!(groups.next().await.is_none());
    assert!(groups.next().await.is_none());
    assert_eq!(one.collect::<Vec<_>>().await, [100, 101, 102]);
    assert_eq!(two.collect::<Vec<_>>().await, [200, 201]);
}

/// Any reader moves the source on, whoever polled it last, also when that one is gone.
#[tokio::test(start_paused = true)]
async fn readers_on_tasks_get_everything() {
    let (tx, rx) = mpsc::channel(1);
    let mut groups = ReceiverStream::new(rx).group_by(limits(8, 2), hundreds);
    let mut readers = JoinSet::new();
    let mut feeder = JoinSet::new();
    feeder.spawn(async move {
        for n in 0..400 {
            tx.send(n % 4 * 100 + n / 4).await.expect("open");
            if n % 7 == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let all = async {
        while let Some(mut group) = groups.next().await {
            readers.spawn(async move {
                // Group 0 is given up after its first item, and reopened by its next.
                let take = if *group.key() == 0 { 1 } else { usize::MAX };
                (*group.key(), group.by_ref().take(take).collect::<Vec<_>>().await)
            });
        }
        readers.join_all().await
    };
    let read = timeout(Duration::from_secs(60), all).await.expect("stuck");
    for key in 1..4 {
        let items: Vec<_> = read.iter().filter(|(k, _)| *k == key).flat_map(|(_, items)| items).copied().collect();
        assert_eq!(items, (0..100).map(|n| key * 100 + n).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_full_group_holds_the_source_until_it_is_read_or_dropped() {
    let mut groups = stream::iter([100, 101, 102, 200, 201, 300]).group_by(limits(4, 2), hundreds);
    let mut one = groups.next().await.expect("group");
    assert!(groups.next().now_or_never().is_none());
    assert_eq!(one.next().await, Some(100));
    let two = groups.next().await.expect("group");
    assert_eq!(*two.key(), 2);
    drop(one);
    let three = groups.next().await.expect("group");
    assert_eq!(three.collect::<Vec<_>>().await, [300]);
    assert_eq!(two.collect::<Vec<_>>().await, [200, 201]);
}

#[tokio::test]
async fn dropping_a_stalled_group_reopens_it_for_the_stalled_item() {
    let mut groups = stream::iter([100, 101]).group_by(limits(4, 1), hundreds);
    let one = groups.next().await.expect("group");
    assert!(groups.next().now_or_never().is_none());
    drop(one);
    let again = groups.next().await.expect("group");
    assert_eq!(again.collect::<Vec<_>>().await, [101]);
}

#[tokio::test]
async fn an_untaken_group_holds_the_source() {
    let mut groups = stream::iter([100, 200, 101]).group_by(limits(4, 4), hundreds);
    let mut one = groups.next().await.expect("group");
    assert_eq!(one.next().await, Some(100));
    // 101 comes after group 2 and can be placed; the next new group could not.
    assert_eq!(one.next().await, Some(101));
    assert_eq!(groups.next().await.map(|two| *two.key()), Some(2));
}

#[tokio::test]
async fn the_idlest_group_ends_at_the_limit_and_its_reader_wakes() {
    let (tx, rx) = mpsc::channel(8);
    let mut groups = ReceiverStream::new(rx).group_by(limits(2, 4), hundreds);
    for n in [100, 200, 101] {
        tx.send(n).await.expect("open");
    }
    let mut one = groups.next().await.expect("group");
    let mut two = groups.next().await.expect("group");
    assert_eq!(one.next().await, Some(100));
    assert_eq!(one.next().await, Some(101));
    assert_eq!(two.next().await, Some(200));
    tx.send(300).await.expect("open");
    let (rest, three) = future::join(two.next(), groups.next()).await;
    assert_eq!(rest, None);
    assert_eq!(three.map(|three| *three.key()), Some(3));
    assert_eq!(two.next().await, None);
    tx.send(102).await.expect("open");
    assert_eq!(one.next().await, Some(102));
}

// The clock is not paused: it would stand still while there is always something to do.
#[tokio::test]
async fn without_the_outer_stream_new_keys_are_discarded_without_blocking_the_thread() {
    let mut groups = stream::repeat(200).group_by(limits(2, 4), |n| *n / 100);
    let two = groups.next().await.expect("group");
    drop(groups);
    assert_eq!(two.take(3).collect::<Vec<u32>>().await, [200, 200, 200]);

    let endless = stream::once(future::ready(100)).chain(stream::repeat(200));
    let mut groups = endless.group_by(limits(2, 4), hundreds);
    let mut one = groups.next().await.expect("group");
    drop(groups);
    assert_eq!(one.next().await, Some(100));
    assert!(timeout(Duration::from_millis(5), one.next()).await.is_err());
}
