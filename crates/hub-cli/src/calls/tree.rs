//! `hub calls tree`, and the drawing of trees.

use std::collections::HashMap;

use clap::Args;
use hub_protocol::CallId;
use hub_protocol::ops::calls::{CallStatus, GetTree};

use super::node::Node;
use super::{resolve, status_cell};
use crate::args::{CallRef, parse_call};
use crate::connect::Hub;
use crate::failure::Result;
use crate::output::{Cell, Out, Paint, Table};
use crate::time::{duration, now_ms};

/// Width of the bars that show when a call ran.
const BAR: usize = 24;

#[derive(Debug, Args)]
pub(crate) struct TreeArgs {
    /// Any call of the tree by its id, or `last` for your newest call.
    #[arg(value_parser = parse_call)]
    call: CallRef,
    /// Only this call and those below it.
    #[arg(long)]
    below: bool,
    /// Also show the calls' ids.
    #[arg(long)]
    ids: bool,
}

pub(super) async fn run(out: Out, hub: &Hub, args: TreeArgs) -> Result<()> {
    let call_id = resolve(hub, args.call).await?;
    let tree = hub.call(&GetTree { call_id, below: args.below.then_some(true) }).await?;
    if out.json {
        return out.document(&tree);
    }
    let nodes: Vec<Node> = tree.calls.iter().map(Node::of).collect();
    out.table(&draw(&nodes, now_ms(), args.ids))
}

/// A table whose first column is the tree. Parents need not come before their children; a call whose parent is not
/// among them is drawn as a root.
pub(super) fn draw(nodes: &[Node], now: u64, ids: bool) -> Table {
    let from = nodes.iter().map(|node| node.started_at).min().unwrap_or(now);
    let to = nodes.iter().map(|node| node.ended_at.unwrap_or(now)).max().unwrap_or(now);
    let span = Span { from, to: to.max(from), now };
    let scale = format!("0 … {}", duration(span.to - span.from));
    let mut heads = vec!["OPERATION", "SPOKE", "STATUS", ">TIME"];
    if ids {
        heads.push("CALL");
    }
    heads.push(&scale);
    let mut drawing = Drawing { table: Table::new(&heads), below: children(nodes), span, ids };
    for root in drawing.below.remove(&None).unwrap_or_default() {
        drawing.add(root, "", "");
    }
    drawing.table
}

/// Calls by their parent, in the order of their start; `None` for those whose parent is not there.
fn children(nodes: &[Node]) -> HashMap<Option<CallId>, Vec<&Node>> {
    let known: std::collections::HashSet<CallId> = nodes.iter().map(|node| node.id).collect();
    let mut below: HashMap<Option<CallId>, Vec<&Node>> = HashMap::new();
    for node in nodes {
        below.entry(node.parent.filter(|parent| known.contains(parent))).or_default().push(node);
    }
    for siblings in below.values_mut() {
        siblings.sort_by_key(|node| (node.started_at, node.id));
    }
    below
}

struct Drawing<'a> {
    table: Table,
    below: HashMap<Option<CallId>, Vec<&'a Node>>,
    span: Span,
    ids: bool,
}

impl Drawing<'_> {
    /// `lead` stands before the call itself, `under` before everything below it.
    fn add(&mut self, node: &Node, lead: &str, under: &str) {
        let mut cells = vec![
            Cell::new(format!("{lead}{}", node.operation), Paint::Plain),
            Cell::new(node.spoke.as_deref().unwrap_or("hub"), Paint::Dim),
            status_cell(node.status, &detail(node)),
            duration(node.duration(self.span.now)).into(),
        ];
        if self.ids {
            cells.push(Cell::new(node.id.to_string(), Paint::Dim));
        }
        cells.push(Cell::new(self.span.bar(node), Paint::Dim));
        self.table.row(cells);
        // Taking the list out also ends a circle, should a hub ever send one.
        let below = self.below.remove(&Some(node.id)).unwrap_or_default();
        let last = below.len().saturating_sub(1);
        for (i, child) in below.into_iter().enumerate() {
            let (branch, rest) = if i == last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            self.add(child, &format!("{under}{branch}"), &format!("{under}{rest}"));
        }
    }
}

fn detail(node: &Node) -> String {
    match node.status {
        CallStatus::Running if node.items == 1 => "(1 item)".to_owned(),
        CallStatus::Running if node.items > 1 => format!("({} items)", node.items),
        _ => node.detail().to_owned(),
    }
}

/// From the start of the first call to the end of the last one.
struct Span {
    from: u64,
    to: u64,
    now: u64,
}

impl Span {
    /// When the call ran: `█`, at its open end `▒` while it still runs.
    fn bar(&self, node: &Node) -> String {
        let length = (self.to - self.from).max(1);
        let place = |at: u64| {
            let ms = at.clamp(self.from, self.to) - self.from;
            usize::try_from(u128::from(ms) * BAR as u128 / u128::from(length)).unwrap_or(BAR)
        };
        let start = place(node.started_at).min(BAR - 1);
        let end = place(node.ended_at.unwrap_or(self.now)).max(start + 1);
        let mut bar = " ".repeat(start);
        bar.push_str(&"█".repeat(end - start));
        if node.ended_at.is_none() {
            bar.pop();
            bar.push('▒');
        }
        bar
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    fn node(id: u128, parent: Option<u128>, operation: &str, started_at: u64, ended_at: Option<u64>) -> Node {
        let id_of = |n: u128| format!("019aa571-0000-7000-8000-{n:012}").parse().unwrap();
        Node {
            id: id_of(id),
            parent: parent.map(id_of),
            operation: operation.into(),
            spoke: (parent.is_some()).then(|| "laptop".into()),
            status: if ended_at.is_some() { CallStatus::Completed } else { CallStatus::Running },
            started_at,
            ended_at,
            code: None,
            items: 0,
        }
    }

    fn text(nodes: &[Node], now: u64) -> String {
        draw(nodes, now, false).render(Style { colour: false }, None)
    }

    #[test]
    fn a_tree() {
        let mut nodes = [
            node(1, None, "demo.plan", 1_000, Some(3_400)),
            node(4, Some(2), "dev.laptop.bash.run", 2_000, Some(2_600)),
            node(2, Some(1), "demo.step", 1_000, Some(2_600)),
            node(3, Some(1), "dev.laptop.fs.read", 3_300, Some(3_310)),
        ];
        nodes[1].status = CallStatus::Failed;
        nodes[1].code = Some("TIMEOUT".into());
        assert_eq!(
            text(&nodes, 9_000),
            "\
OPERATION                  SPOKE   STATUS            TIME  0 … 2.40 s
demo.plan                  hub     completed       2.40 s  ████████████████████████
├─ demo.step               laptop  completed       1.60 s  ████████████████
│  └─ dev.laptop.bash.run  laptop  failed TIMEOUT  600 ms            ██████
└─ dev.laptop.fs.read      laptop  completed        10 ms                         █
"
        );
    }

    #[test]
    fn what_runs_grows_and_orphans_are_roots() {
        let mut nodes = [node(1, None, "a.b", 0, None), node(3, Some(2), "c.d", 500, Some(500))];
        nodes[0].items = 7;
        assert_eq!(
            text(&nodes, 1_000),
            "\
OPERATION  SPOKE   STATUS               TIME  0 … 1.00 s
a.b        hub     running (7 items)  1.00 s  ███████████████████████▒
c.d        laptop  completed            0 ms              █
"
        );
    }

    #[test]
    fn odd_trees_do_no_harm() {
        let circle = [node(1, Some(2), "a.b", 0, None), node(2, Some(1), "c.d", 0, None)];
        assert_eq!(text(&circle, 0).lines().count(), 1);
        assert_eq!(text(&[], 0).lines().count(), 1);
        // A clock that runs behind that of the hub.
        assert!(text(&[node(1, None, "a.b", 1_000, None)], 0).contains("0 ms"));
    }

    #[test]
    fn ids_are_whole() {
        let text = draw(&[node(1, None, "a.b", 0, Some(1))], 1, true).render(Style { colour: false }, None);
        assert!(text.contains("019aa571-0000-7000-8000-000000000001"));
    }
}
