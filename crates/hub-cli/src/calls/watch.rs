//! `hub calls watch`.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use hub_protocol::CallId;
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, ObserveCalls};
use tokio::time::{Interval, MissedTickBehavior};

use super::node::Node;
use super::{resolve, tree};
use crate::args::{CallRef, parse_call};
use crate::connect::{Hub, connection_note};
use crate::failure::Result;
use crate::output::{Out, Paint, clean};
use crate::time::{clock, now_ms};

/// Between two pictures: fast enough to look live, slow enough for a terminal far away.
const FRAME: Duration = Duration::from_millis(200);

/// Ended calls that are kept in the picture of everything.
const ENDED: usize = 200;

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only the tree of this call, until it has ended: an id, or `last` for your newest call.
    #[arg(value_parser = parse_call)]
    call: Option<CallRef>,
    /// Only this operation.
    #[arg(long, value_name = "OPERATION")]
    op: Option<String>,
    /// Only calls of this principal.
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Continue after this position of the log; 0 is the beginning.
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

pub(super) async fn run(out: Out, hub: &Hub, args: WatchArgs) -> Result<()> {
    let call_id = match args.call {
        Some(call) => Some(resolve(hub, call).await?),
        None => None,
    };
    let params = ObserveCalls {
        call_id,
        operation_id: args.op,
        principal: args.principal,
        after: args.after,
        until_done: call_id.map(|_| true),
    };
    let mut events = hub.client.observe_calls(params);
    let mut state = hub.client.state();
    let mut picture = (out.terminal && !out.json).then(|| Picture::new(out));
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => break,
                Some(Err(error)) => return Err(hub.failed(ObserveCalls::ID, error)),
                Some(Ok(event)) => match &mut picture {
                    Some(picture) => picture.take(&event),
                    None if out.json => out.record(&event)?,
                    None => out.line(&line(&event, out))?,
                },
            },
            () = Picture::due(&mut picture) => if let Some(picture) = &mut picture {
                picture.draw()?;
            },
            Ok(()) = state.changed() => {
                let note = connection_note(&state.borrow_and_update());
                match &mut picture {
                    Some(picture) => picture.note = note,
                    None => note.iter().for_each(|note| out.note(note)),
                }
            },
        }
    }
    picture.map_or(Ok(()), |mut picture| picture.draw())
}

fn gap(event: &CallEvent) -> String {
    match event.gap_from.unwrap_or_default() {
        from if from > event.seq => format!("the log ends at {}, before the position asked for", event.seq),
        from => format!("events {from} to {} are past retention", event.seq),
    }
}

/// An event as a line.
pub(super) fn line(event: &CallEvent, out: Out) -> String {
    let style = out.style;
    let head = style.paint(Paint::Dim, &clock(event.at));
    if event.kind == CallEventKind::Gap {
        return format!("{head}  {}", style.paint(Paint::Yellow, &gap(event)));
    }
    let paint = match event.kind {
        CallEventKind::Requested | CallEventKind::Gap => Paint::Cyan,
        CallEventKind::Responded => Paint::Plain,
        CallEventKind::Completed => Paint::Green,
        CallEventKind::Failed => Paint::Red,
        CallEventKind::Aborted => Paint::Yellow,
    };
    let mut more = String::new();
    if let Some(item) = event.item {
        more.push_str(&format!("  item {item}"));
    }
    if let Some(spoke) = &event.spoke {
        more.push_str(&format!("  on {}", clean(spoke)));
    }
    if let Some(error) = &event.error {
        more.push_str(&format!("  {}", clean(&error.to_string())));
    }
    let kind = style.paint(paint, &format!("{:<9}", event.kind.as_str()));
    let operation = style.paint(Paint::Bold, &clean(&event.operation_id));
    format!("{head}  {kind}  {}  {operation}{more}", style.paint(Paint::Dim, &event.call_id.to_string()))
}

/// What runs and what has ended, redrawn in place.
struct Picture {
    out: Out,
    nodes: HashMap<CallId, Node>,
    ticks: Interval,
    /// Lines of the last drawing, to go back over.
    drawn: usize,
    note: Option<String>,
}

impl Picture {
    fn new(out: Out) -> Self {
        let mut ticks = tokio::time::interval(FRAME);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { out, nodes: HashMap::new(), ticks, drawn: 0, note: None }
    }

    /// When the next drawing is due; never without a picture.
    async fn due(picture: &mut Option<Self>) {
        match picture {
            Some(picture) => {
                picture.ticks.tick().await;
            }
            None => std::future::pending().await,
        }
    }

    fn take(&mut self, event: &CallEvent) {
        if event.kind == CallEventKind::Gap {
            self.note = Some(gap(event));
            return;
        }
        self.nodes.entry(event.call_id).or_insert_with(|| Node::begin(event)).note(event);
        self.prune();
    }

    /// Forgets the calls that ended first.
    fn prune(&mut self) {
        // Twice as many may gather, so that sorting is rare.
        if self.nodes.len() <= ENDED * 2 {
            return;
        }
        let mut ended: Vec<(u64, CallId)> =
            self.nodes.values().filter_map(|node| Some((node.ended_at?, node.id))).collect();
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(ENDED);
        for (_, id) in ended.into_iter().take(surplus) {
            self.nodes.remove(&id);
        }
    }

    fn draw(&mut self) -> Result<()> {
        let nodes: Vec<Node> = self.nodes.values().cloned().collect();
        let table = tree::draw(&nodes, now_ms(), false).render(self.out.style, self.out.width());
        let note = self.note.as_ref().map(|note| self.out.style.paint(Paint::Yellow, note));
        let lines: Vec<&str> = table.lines().chain(note.as_deref()).collect();
        let (frame, drawn) = frame(&lines, self.drawn, self.out.height());
        self.drawn = drawn;
        self.out.raw(&frame)
    }
}

/// A frame over the one before it, and how many lines it has. Never higher than the terminal: what scrolls out at
/// the top can't be drawn over. The head stays, then come the newest calls.
fn frame(lines: &[&str], before: usize, height: usize) -> (String, usize) {
    let room = height.saturating_sub(1).max(2);
    // Without wrapping, so that a long line stays one line.
    let mut frame = if before > 0 { format!("\x1b[{before}A\x1b[J\x1b[?7l") } else { "\x1b[?7l".to_owned() };
    let skipped = lines.len().saturating_sub(room);
    let shown = lines.iter().take(1).chain(lines.iter().skip(1 + skipped));
    let mut count = 0;
    for line in shown {
        frame.push_str(line);
        frame.push('\n');
        count += 1;
    }
    frame.push_str("\x1b[?7h");
    (frame, count)
}

#[cfg(test)]
mod tests {
    use hub_protocol::CallError;
    use hub_protocol::ops::calls::CallStatus;
    use serde_json::json;

    use super::*;
    use crate::output::Style;

    const PLAIN: Style = Style { colour: false };

    fn out() -> Out {
        Out { json: false, style: PLAIN, err_style: PLAIN, terminal: false }
    }

    fn event(n: u32, kind: CallEventKind, at: u64) -> CallEvent {
        serde_json::from_value(json!({
            "seq": at, "at": at, "type": kind, "callId": format!("019aa571-0000-7000-8000-{n:012}"),
            "root": "019aa571-0000-7000-8000-000000000001", "operationId": "a.b", "principal": "key/x",
        }))
        .unwrap()
    }

    #[test]
    fn events_as_lines() {
        let mut failed = event(1, CallEventKind::Failed, 0);
        failed.error = Some(CallError::domain("TANK_EMPTY", "refill"));
        failed.spoke = Some("laptop".into());
        let text = line(&failed, out());
        assert!(
            text.ends_with("failed     019aa571-0000-7000-8000-000000000001  a.b  on laptop  TANK_EMPTY: refill"),
            "{text}"
        );
        let mut gap = event(1, CallEventKind::Gap, 9);
        gap.gap_from = Some(3);
        assert!(line(&gap, out()).ends_with("events 3 to 9 are past retention"));
    }

    #[tokio::test]
    async fn the_picture_follows_the_events_and_stays_bounded() {
        let mut picture = Picture::new(out());
        for n in 0..2_000u32 {
            picture.take(&event(n, CallEventKind::Requested, u64::from(n)));
            if n > 0 {
                picture.take(&event(n, CallEventKind::Completed, u64::from(n)));
            }
        }
        assert!(picture.nodes.len() <= ENDED * 2 + 1);
        let live: Vec<&Node> = picture.nodes.values().filter(|n| n.status == CallStatus::Running).collect();
        assert_eq!(live.len(), 1);
    }

    #[test]
    fn a_frame_goes_over_the_last_one_and_fits() {
        assert_eq!(frame(&["H", "a"], 0, 30), ("\x1b[?7lH\na\n\x1b[?7h".to_owned(), 2));
        assert_eq!(frame(&["H", "a", "b"], 2, 30), ("\x1b[2A\x1b[J\x1b[?7lH\na\nb\n\x1b[?7h".to_owned(), 3));
        assert_eq!(frame(&["H", "a", "b", "c", "d"], 0, 4), ("\x1b[?7lH\nc\nd\n\x1b[?7h".to_owned(), 3));
    }
}
