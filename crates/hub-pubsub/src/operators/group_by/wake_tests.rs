//! Who is woken by what. Polled by hand and with a source that wakes nobody, as on a runtime another wake-up could hide
//! a missing one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use futures_util::{StreamExt as _, stream};

use super::*;
use crate::StreamOperators as _;

/// A task that only remembers whether it was woken.
#[derive(Default)]
struct Task(AtomicBool);

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Task {
    fn poll<S: Stream + Unpin>(self: &Arc<Self>, stream: &mut S) -> Poll<Option<S::Item>> {
        stream.poll_next_unpin(&mut Context::from_waker(&Waker::from(self.clone())))
    }

    /// Polls a stream that has nothing, and forgets wake-ups up to then.
    fn wait<S: Stream + Unpin>(self: &Arc<Self>, stream: &mut S) {
        assert!(self.poll(stream).is_pending());
        self.woken();
    }

    fn woken(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

const PENDING: Poll<Option<u32>> = Poll::Pending;
const END: Poll<Option<u32>> = Poll::Ready(None);

fn item(n: u32) -> Poll<Option<u32>> {
    Poll::Ready(Some(n))
}

/// What the source answers to each poll; then it is pending. The key is the hundreds, groups hold one item.
fn grouped<const N: usize>(
    groups: usize,
    script: [Poll<Option<u32>>; N],
) -> GroupBy<impl Stream<Item = u32>, u32, fn(&u32) -> u32> {
    let mut script = script.into_iter();
    let source = stream::poll_fn(move |_| script.next().unwrap_or(Poll::Pending));
    let groups = NonZeroUsize::new(groups).expect("not zero");
    source.group_by(GroupLimits { groups, buffer: NonZeroUsize::MIN }, |n| n / 100)
}

/// Takes the group that the script opens with item 100 and a pause, and has its reader wait.
macro_rules! group_one {
    ($outer:ident, $groups:ident, $reader:ident) => {{
        let Poll::Ready(Some(mut one)) = $outer.poll(&mut $groups) else { panic!("no group") };
        assert_eq!($reader.poll(&mut one), item(100));
        $reader.wait(&mut one);
        one
    }};
}

#[test]
fn an_item_wakes_its_reader() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let mut groups = grouped(2, [item(100), PENDING, item(101)]);
    let mut one = group_one!(outer, groups, reader);
    outer.wait(&mut groups);
    assert!(reader.woken());
    assert_eq!(reader.poll(&mut one), item(101));
}

#[test]
fn a_new_group_wakes_the_outer_stream_and_the_group_that_ends_for_it() {
    let [outer, reader, other] = <[Arc<Task>; 3]>::default();
    let mut groups = grouped(2, [item(100), PENDING, item(200), PENDING, PENDING, item(300)]);
    let mut one = group_one!(outer, groups, reader);
    let Poll::Ready(Some(mut two)) = outer.poll(&mut groups) else { panic!("no group") };
    outer.wait(&mut groups);
    assert_eq!(other.poll(&mut two), item(200));
    other.wait(&mut two);
    other.wait(&mut two);
    assert!(outer.woken() && reader.woken());
    assert_eq!(reader.poll(&mut one), END);
    assert!(matches!(outer.poll(&mut groups), Poll::Ready(Some(three)) if *three.key() == 3));
}

#[test]
fn reading_a_full_group_wakes_who_it_held_up() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let mut groups = grouped(2, [item(100), PENDING, item(101), item(102), item(200)]);
    let mut one = group_one!(outer, groups, reader);
    outer.wait(&mut groups);
    assert!(reader.woken());
    assert_eq!(reader.poll(&mut one), item(101));
    assert!(outer.woken());
    assert!(matches!(outer.poll(&mut groups), Poll::Ready(Some(two)) if *two.key() == 2));
}

#[test]
fn dropping_a_full_group_wakes_who_it_held_up() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let mut groups = grouped(2, [item(100), PENDING, item(101), item(102)]);
    let one = group_one!(outer, groups, reader);
    outer.wait(&mut groups);
    drop(one);
    assert!(outer.woken());
}

#[test]
fn dropping_the_outer_stream_wakes_who_waits_for_it_to_take_a_group() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let mut groups = grouped(4, [item(100), PENDING, item(200), item(300), item(101)]);
    let mut one = group_one!(outer, groups, reader);
    reader.wait(&mut one);
    drop(groups);
    assert!(reader.woken());
    assert_eq!(reader.poll(&mut one), item(101));
}

#[test]
fn the_end_of_the_source_wakes_all() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let mut groups = grouped(2, [item(100), PENDING, PENDING, END]);
    let mut one = group_one!(outer, groups, reader);
    outer.wait(&mut groups);
    assert_eq!(reader.poll(&mut one), END);
    assert!(outer.woken());
    assert!(matches!(outer.poll(&mut groups), Poll::Ready(None)));
}

#[test]
fn the_source_wakes_all_whoever_polled_it_last() {
    let [outer, reader] = <[Arc<Task>; 2]>::default();
    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let limits = GroupLimits { groups: NonZeroUsize::MIN, buffer: NonZeroUsize::MIN };
    let mut groups = tokio_stream::wrappers::ReceiverStream::new(rx).group_by(limits, |n| n / 100);
    tx.try_send(100).expect("room");
    let mut one = group_one!(outer, groups, reader);
    outer.wait(&mut groups);
    tx.try_send(200).expect("room");
    assert!(reader.woken() && outer.woken());
    assert_eq!(reader.poll(&mut one), END);
}

#[test]
fn an_endless_source_gives_way_and_asks_to_be_polled_again() {
    let reader = Arc::<Task>::default();
    let endless = stream::iter([100]).chain(stream::repeat(200));
    let limits = GroupLimits { groups: NonZeroUsize::MIN, buffer: NonZeroUsize::MIN };
    let mut groups = endless.group_by(limits, |n| n / 100);
    let Poll::Ready(Some(mut one)) = reader.poll(&mut groups) else { panic!("no group") };
    drop(groups);
    assert_eq!(reader.poll(&mut one), item(100));
    reader.woken();
    assert!(reader.poll(&mut one).is_pending());
    assert!(reader.woken());
}
