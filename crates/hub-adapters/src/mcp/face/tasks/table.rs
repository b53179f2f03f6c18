use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_protocol::CallId;

use super::{Entry, Task, is_over};
use crate::mcp::http::Owner;

/// Tasks of one owner that are kept here; the one that ended first gives way.
pub(super) const PER_OWNER: usize = 64;

/// Tasks of all owners.
const ALL: usize = 8_192;

/// Bytes of all results together.
const BYTES: usize = 64 * 1024 * 1024;

type Entries = HashMap<CallId, Arc<Entry>>;

/// The tasks that are kept in memory. What gives way is still in the calls' records.
#[derive(Default)]
pub(super) struct Table(Mutex<Entries>);

impl Table {
    pub(super) fn get(&self, id: CallId) -> Option<Arc<Entry>> {
        self.lock().get(&id).map(Arc::clone)
    }

    /// Keeps a task, unless too many run.
    pub(super) fn keep(&self, entry: &Arc<Entry>) -> bool {
        let mut entries = self.lock();
        while of(&entries, &entry.owner) >= PER_OWNER && forget_first(&mut entries, |e| e.owner == entry.owner) {}
        while entries.len() >= ALL && forget_first(&mut entries, |_| true) {}
        let room = of(&entries, &entry.owner) < PER_OWNER && entries.len() < ALL;
        if room {
            entries.insert(entry.id, Arc::clone(entry));
        }
        room
    }

    /// Forgets tasks whose time is over, and those that ended first while the results are too many bytes.
    pub(super) fn make_room(&self) {
        self.keep_within(BYTES);
    }

    fn keep_within(&self, bytes: usize) {
        let mut entries = self.lock();
        entries.retain(|_, entry| !is_over(entry.started));
        while entries.values().map(|entry| size(entry)).sum::<usize>() > bytes && forget_first(&mut entries, |_| true) {
        }
    }

    /// One owner's.
    pub(super) fn list(&self, owner: &Owner) -> Vec<Task> {
        let entries = self.lock();
        let own = entries.values().filter(|entry| entry.owner == *owner && !is_over(entry.started));
        own.map(|entry| entry.task()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of(entries: &Entries, owner: &Owner) -> usize {
    entries.values().filter(|entry| entry.owner == *owner).count()
}

fn size(entry: &Entry) -> usize {
    entry.ended.borrow().as_ref().map_or(0, |ended| ended.result.size())
}

/// Forgets the task that ended first among some; `false` when none of them has ended.
fn forget_first(entries: &mut Entries, some: impl Fn(&Entry) -> bool) -> bool {
    let ended = |entry: &Arc<Entry>| Some((entry.ended.borrow().as_ref()?.at, entry.id));
    let first = entries.values().filter(|entry| some(entry)).filter_map(ended).min();
    first.is_some_and(|(_, id)| entries.remove(&id).is_some())
}

#[cfg(test)]
mod tests {
    use rmcp::model::{CallToolResult, ContentBlock};

    use super::*;

    fn kept(table: &Table, owner: &str) -> Arc<Entry> {
        let entry = Entry::new(Owner(owner.to_owned()));
        assert!(table.keep(&entry));
        entry
    }

    #[test]
    fn the_task_of_the_same_owner_that_ended_first_gives_way() {
        let table = Table::default();
        let entries: Vec<Arc<Entry>> = (0..PER_OWNER).map(|_| kept(&table, "a")).collect();
        let other = kept(&table, "b");
        other.end(&CallToolResult::default());
        assert!(!table.keep(&Entry::new(Owner("a".to_owned()))));
        entries[7].end(&CallToolResult::default());
        let new = kept(&table, "a");
        assert!(table.get(entries[7].id).is_none() && table.get(other.id).is_some());
        let listed: Vec<CallId> = table.list(&new.owner).into_iter().map(|task| task.id).collect();
        assert!(listed.len() == PER_OWNER && listed.contains(&new.id) && !listed.contains(&other.id));
    }

    #[test]
    fn results_are_bounded_in_bytes() {
        let table = Table::default();
        let large = CallToolResult::success(vec![ContentBlock::text("x".repeat(1_000))]);
        let entries: Vec<Arc<Entry>> = (0..4).map(|n| kept(&table, &n.to_string())).collect();
        for entry in &entries[..3] {
            entry.end(&large);
            table.keep_within(3_000);
        }
        // Three are too many, with what is around them; what runs stays.
        let known: Vec<bool> = entries.iter().map(|entry| table.get(entry.id).is_some()).collect();
        assert_eq!(known, [false, true, true, true]);
    }
}
