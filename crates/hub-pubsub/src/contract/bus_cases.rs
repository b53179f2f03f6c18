//! The cases of a bus. Each name is a promise. The first handle sends, the second one listens.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::within;
use crate::{Bus, BusDelivery, Inbox, MAX_FRAME_BYTES, MAX_TOPIC_BYTES, TargetError};

/// Bytes of an inbox in the case of a full one.
pub(super) const SMALL: usize = 4096;

async fn listen(bus: &Bus, name: &str) -> Inbox {
    within("listen", bus.listen(name)).await.expect("listen")
}

async fn send(bus: &Bus, to: &str, frame: impl Into<Bytes>) {
    within("send", bus.send(to, frame)).await.expect("send");
}

async fn next(inbox: &mut Inbox) -> Option<BusDelivery> {
    within("a delivery", inbox.recv()).await
}

async fn frame(inbox: &mut Inbox) -> Bytes {
    match next(inbox).await {
        Some(BusDelivery::Frame(frame)) => frame,
        other => panic!("expected a frame on {inbox:?}, not {other:?}"),
    }
}

pub(super) async fn order_is_kept([sender, listener]: [Bus; 2]) {
    const FRAMES: usize = 5000;
    let mut inbox = listen(&listener, "a").await;
    let mut answers = Vec::new();
    for n in 0..FRAMES {
        answers.push(within("enqueue", sender.enqueue("a", n.to_string())).await.expect("enqueue"));
    }
    for n in 0..FRAMES {
        assert_eq!(frame(&mut inbox).await, n.to_string());
    }
    for answer in answers {
        assert_eq!(within("an answer", answer).await, Ok(()));
    }
}

pub(super) async fn senders_keep_their_order([sender, listener]: [Bus; 2]) {
    const SENDERS: usize = 8;
    const EACH: usize = 200;
    let mut inbox = listen(&listener, "a").await;
    let mut senders = JoinSet::new();
    for number in 0..SENDERS {
        let sender = sender.clone();
        senders.spawn(async move {
            for n in 0..EACH {
                send(&sender, "a", format!("{number} {n}")).await;
            }
        });
    }
    let mut seen = [0; SENDERS];
    for _ in 0..SENDERS * EACH {
        let frame = frame(&mut inbox).await;
        let (number, n) = std::str::from_utf8(&frame).expect("text").split_once(' ').expect("two numbers");
        let seen = &mut seen[number.parse::<usize>().expect("a number")];
        assert_eq!(n, seen.to_string(), "order of sender {number}");
        *seen += 1;
    }
    senders.join_all().await;
}

pub(super) async fn frames_are_any_bytes_up_to_the_limit([sender, listener]: [Bus; 2]) {
    let mut inbox = listen(&listener, "a").await;
    let large: Vec<u8> = (0..MAX_FRAME_BYTES).map(|n| n.to_le_bytes()[n % 3]).collect();
    for sent in [Bytes::new(), Bytes::from_static(&[0, 0xff, b'\r', b'\n', 0]), Bytes::from(large.clone())] {
        send(&sender, "a", sent.clone()).await;
        let got = frame(&mut inbox).await;
        // Not assert_eq: it would print megabytes.
        assert!(got == sent, "frame of {} bytes came as {} others", sent.len(), got.len());
    }
    let too_large = [large, vec![0]].concat();
    assert_eq!(sender.send("a", too_large).await, Err(TargetError::FrameTooLarge));
}

pub(super) async fn nobody_there_is_told([sender, listener]: [Bus; 2]) {
    assert_eq!(within("send", sender.send("a", "x")).await, Err(TargetError::NobodyThere));
    assert_eq!(within("ask", sender.is_listening("a")).await, Ok(false));
    within("broadcast", sender.broadcast("x")).await.expect("nobody listening is no error");
    let mut inbox = listen(&listener, "a").await;
    assert_eq!(within("ask", sender.is_listening("a")).await, Ok(true));
    send(&sender, "a", "y").await;
    assert_eq!(frame(&mut inbox).await, "y");
    drop(inbox);
    let noticed = async {
        while sender.send("a", "z").await != Err(TargetError::NobodyThere) {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    within("the end of listening", noticed).await;
}

pub(super) async fn names_are_separate_and_plain_text([sender, listener]: [Bus; 2]) {
    let names = ["a", "a:", "A", "a?", "[a]", "ü \\", "all"];
    let mut inboxes = Vec::new();
    for name in names {
        inboxes.push(listen(&listener, name).await);
    }
    let mut twin = listen(&listener, "a").await;
    for name in names {
        send(&sender, name, name).await;
        send(&sender, name, "end").await;
    }
    for (inbox, name) in inboxes.iter_mut().zip(names) {
        assert_eq!(frame(inbox).await, name);
        assert_eq!(frame(inbox).await, "end");
    }
    assert_eq!(frame(&mut twin).await, "a");
}

pub(super) async fn a_broadcast_reaches_all([sender, listener]: [Bus; 2]) {
    let mut inboxes = [listen(&listener, "a").await, listen(&listener, "b").await, listen(&sender, "c").await];
    within("broadcast", sender.broadcast("x")).await.expect("broadcast");
    for inbox in &mut inboxes {
        assert_eq!(frame(inbox).await, "x");
    }
    // A broadcast and what is sent to the name keep their order too.
    for n in 0..100 {
        within("broadcast", sender.broadcast(format!("all {n}"))).await.expect("broadcast");
        send(&sender, "a", format!("one {n}")).await;
    }
    for n in 0..100 {
        assert_eq!(frame(&mut inboxes[0]).await, format!("all {n}"));
        assert_eq!(frame(&mut inboxes[0]).await, format!("one {n}"));
    }
}

pub(super) async fn a_full_inbox_tells_and_recovers([sender, listener]: [Bus; 2]) {
    const SENT: u64 = 100;
    let mut slow = listen(&listener, "slow").await;
    let mut fast = listen(&listener, "fast").await;
    for n in 0..SENT {
        send(&sender, "slow", vec![n.to_le_bytes()[0]; 1000]).await;
        send(&sender, "fast", "x").await;
        assert_eq!(frame(&mut fast).await, "x");
    }
    // Each inbox has its own connection: what was answered may not be here yet.
    let (mut seen, mut lagged) = (0, 0);
    while seen + lagged < SENT {
        match next(&mut slow).await {
            Some(BusDelivery::Frame(frame)) => {
                assert_eq!(u64::from(frame[0]), seen + lagged, "the count of dropped frames is wrong");
                seen += 1;
            }
            Some(BusDelivery::Lagged(missed)) => lagged += missed,
            other => panic!("{other:?}"),
        }
    }
    assert!(lagged > 0, "{SENT} frames fit in {SMALL} bytes");
    send(&sender, "slow", "well again").await;
    assert_eq!(frame(&mut slow).await, "well again");
}

pub(super) async fn bad_names_are_refused([sender, listener]: [Bus; 2]) {
    let long = "x".repeat(MAX_TOPIC_BYTES + 1);
    for bad in ["", "*all*", "a*", "line\nbreak", &long] {
        let refused = [
            sender.send(bad, "x").await,
            sender.is_listening(bad).await.map(drop),
            listener.listen(bad).await.map(drop),
        ];
        for result in refused {
            assert!(matches!(result, Err(TargetError::InvalidName(_))), "{bad:?}: {result:?}");
        }
    }
}

pub(super) async fn close_ends_inboxes([sender, listener]: [Bus; 2]) {
    let mut inbox = listen(&listener, "a").await;
    send(&sender, "a", "last").await;
    assert_eq!(frame(&mut inbox).await, "last");
    let mut readers = JoinSet::new();
    readers.spawn(async move {
        let first = next(&mut inbox).await;
        [first, next(&mut inbox).await]
    });
    tokio::task::yield_now().await;
    let clone = listener.clone();
    listener.close();
    listener.close();
    assert_eq!(readers.join_all().await, [[None, None]]);
    for closed in [listener, clone] {
        assert_eq!(closed.send("a", "x").await, Err(TargetError::Closed));
        assert_eq!(closed.broadcast("x").await, Err(TargetError::Closed));
        assert_eq!(closed.is_listening("a").await, Err(TargetError::Closed));
        assert!(matches!(closed.listen("a").await, Err(TargetError::Closed)));
    }
}
