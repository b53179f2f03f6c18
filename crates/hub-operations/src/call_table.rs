use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hub_protocol::CallId;

/// How large a call tree may grow.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest chain of nested calls.
    pub depth: u32,
    /// Most live calls below one root.
    pub descendants: u32,
}

impl Default for Limits {
    /// Protocol §4: depth 32, 4,096 live descendants.
    fn default() -> Self {
        Self { depth: 32, descendants: 4096 }
    }
}

/// Why a call can't be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The parent has ended.
    #[error("the parent call has ended")]
    ParentEnded,
    /// The chain is too long.
    #[error("the call tree is deeper than {0}")]
    TooDeep(u32),
    /// The root has too many live calls below it.
    #[error("the call tree has {0} live calls")]
    TooMany(u32),
    /// The id is in use.
    #[error("the call id is in use")]
    Duplicate,
}

/// A call that an abort reaches.
#[derive(Debug, Clone)]
pub struct Reached<T> {
    /// The call.
    pub id: CallId,
    /// Its data.
    pub data: T,
    /// Whether it is live; an ended call stays only to connect its live descendants.
    pub live: bool,
}

/// Live calls and who called whom. Pure bookkeeping: `T` is what the owner keeps per call.
#[derive(Debug)]
pub struct CallTable<T> {
    limits: Limits,
    nodes: Mutex<HashMap<CallId, Node<T>>>,
}

#[derive(Debug)]
struct Node<T> {
    parent: Option<CallId>,
    root: CallId,
    depth: u32,
    children: Vec<CallId>,
    /// Live calls below; kept for roots only.
    descendants: u32,
    live: bool,
    data: T,
}

impl<T: Clone> CallTable<T> {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, nodes: Mutex::new(HashMap::new()) }
    }

    /// Adds a call; answers its root and depth.
    ///
    /// # Errors
    /// When the parent has ended or a limit is reached.
    pub fn insert(&self, id: CallId, parent: Option<CallId>, data: T) -> Result<(CallId, u32), TableError> {
        let mut nodes = self.lock();
        if nodes.contains_key(&id) {
            return Err(TableError::Duplicate);
        }
        let (root, depth) = match parent {
            None => (id, 0),
            Some(parent) => self.adopt(&mut nodes, id, parent)?,
        };
        nodes.insert(id, Node { parent, root, depth, children: Vec::new(), descendants: 0, live: true, data });
        Ok((root, depth))
    }

    /// Links a new child into its parent and counts it at the root.
    fn adopt(
        &self,
        nodes: &mut HashMap<CallId, Node<T>>,
        id: CallId,
        parent: CallId,
    ) -> Result<(CallId, u32), TableError> {
        let above = nodes.get(&parent).filter(|n| n.live).ok_or(TableError::ParentEnded)?;
        let (root, depth) = (above.root, above.depth + 1);
        if depth > self.limits.depth {
            return Err(TableError::TooDeep(self.limits.depth));
        }
        let at_root = nodes.get_mut(&root).ok_or(TableError::ParentEnded)?;
        if at_root.descendants >= self.limits.descendants {
            return Err(TableError::TooMany(self.limits.descendants));
        }
        at_root.descendants += 1;
        if let Some(above) = nodes.get_mut(&parent) {
            above.children.push(id);
        }
        Ok((root, depth))
    }

    /// Ends a call. It disappears once nothing live is below it.
    pub fn remove(&self, id: CallId) {
        let mut nodes = self.lock();
        let Some(node) = nodes.get_mut(&id) else { return };
        if !std::mem::replace(&mut node.live, false) {
            return;
        }
        let root = node.root;
        if root != id
            && let Some(at_root) = nodes.get_mut(&root)
        {
            at_root.descendants = at_root.descendants.saturating_sub(1);
        }
        let mut next = Some(id);
        while let Some(id) = next {
            next = match nodes.get(&id) {
                Some(node) if !node.live && node.children.is_empty() => Self::unlink(&mut nodes, id),
                _ => None,
            };
        }
    }

    /// Drops a childless node; answers its parent.
    fn unlink(nodes: &mut HashMap<CallId, Node<T>>, id: CallId) -> Option<CallId> {
        let parent = nodes.remove(&id)?.parent?;
        let siblings = &mut nodes.get_mut(&parent)?.children;
        if let Some(at) = siblings.iter().rposition(|child| *child == id) {
            siblings.swap_remove(at);
        }
        Some(parent)
    }

    /// Data of a live call.
    #[must_use]
    pub fn get(&self, id: CallId) -> Option<T> {
        self.lock().get(&id).filter(|n| n.live).map(|n| n.data.clone())
    }

    /// The call and all below it, leaves first. Empty when it is unknown.
    #[must_use]
    pub fn subtree(&self, id: CallId) -> Vec<Reached<T>> {
        let nodes = self.lock();
        let mut order = Vec::new();
        let mut stack = vec![id];
        while let Some(id) = stack.pop() {
            if let Some(node) = nodes.get(&id) {
                order.push(Reached { id, data: node.data.clone(), live: node.live });
                stack.extend(&node.children);
            }
        }
        // Parents were taken before their children, so the reverse has every leaf before what called it.
        order.reverse();
        order
    }

    /// Data of all live calls, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<T> {
        self.lock().values().filter(|n| n.live).map(|n| n.data.clone()).collect()
    }

    /// Number of live calls.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().values().filter(|n| n.live).count()
    }

    /// Whether nothing is live.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallId, Node<T>>> {
        // No code that can panic runs under the lock, so a poisoned one still holds consistent data.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table() -> CallTable<u32> {
        CallTable::new(Limits { depth: 3, descendants: 4 })
    }

    #[test]
    fn leaves_come_before_what_called_them() {
        let table = table();
        let ids: Vec<CallId> = (0..4).map(|_| CallId::new()).collect();
        table.insert(ids[0], None, 0).unwrap();
        table.insert(ids[1], Some(ids[0]), 1).unwrap();
        table.insert(ids[2], Some(ids[1]), 2).unwrap();
        assert_eq!(table.insert(ids[3], Some(ids[0]), 3).unwrap(), (ids[0], 1));
        let order: Vec<u32> = table.subtree(ids[0]).iter().map(|r| r.data).collect();
        let place = |n| order.iter().position(|x| *x == n).unwrap();
        assert!(place(2) < place(1) && place(1) < place(0) && place(3) < place(0), "{order:?}");
    }

    #[test]
    fn an_ended_parent_still_leads_to_its_live_children() {
        let table = table();
        let (root, child) = (CallId::new(), CallId::new());
        table.insert(root, None, 0).unwrap();
        table.insert(child, Some(root), 1).unwrap();
        table.remove(root);
        assert_eq!(table.subtree(root).iter().map(|r| (r.data, r.live)).collect::<Vec<_>>(), [(1, true), (0, false)]);
        assert_eq!(table.insert(CallId::new(), Some(root), 2), Err(TableError::ParentEnded));
        table.remove(child);
        assert!(table.subtree(root).is_empty());
    }

    #[test]
    fn limits_hold_and_are_given_back() {
        let table = table();
        let root = CallId::new();
        table.insert(root, None, 0).unwrap();
        let kids: Vec<CallId> = (0..4).map(|_| CallId::new()).collect();
        for kid in &kids {
            table.insert(*kid, Some(root), 1).unwrap();
        }
        assert_eq!(table.insert(CallId::new(), Some(root), 1), Err(TableError::TooMany(4)));
        table.remove(kids[0]);
        table.insert(CallId::new(), Some(root), 1).unwrap();
        let deep: Vec<CallId> = (0..4).map(|_| CallId::new()).collect();
        let chain = CallTable::new(Limits { depth: 2, descendants: 10 });
        chain.insert(deep[0], None, 0).unwrap();
        chain.insert(deep[1], Some(deep[0]), 0).unwrap();
        chain.insert(deep[2], Some(deep[1]), 0).unwrap();
        assert_eq!(chain.insert(deep[3], Some(deep[2]), 0), Err(TableError::TooDeep(2)));
    }

    proptest! {
        /// Any order of starts and ends leaves nothing behind, and an abort always reaches every live descendant.
        #[test]
        fn nothing_is_lost_and_nothing_is_left(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..200)) {
            let table = CallTable::new(Limits { depth: 64, descendants: 1000 });
            let mut live: Vec<(CallId, Option<CallId>)> = Vec::new();
            for (start, at) in steps {
                if start || live.is_empty() {
                    let parent = (!live.is_empty() && at.index(4) > 0).then(|| live[at.index(live.len())].0);
                    let id = CallId::new();
                    if table.insert(id, parent, 0).is_ok() {
                        live.push((id, parent));
                    }
                } else {
                    let (id, _) = live.swap_remove(at.index(live.len()));
                    table.remove(id);
                }
                prop_assert_eq!(table.len(), live.len());
                for (id, parent) in &live {
                    if let Some(parent) = parent {
                        prop_assert!(table.subtree(*parent).iter().any(|r| r.id == *id && r.live));
                    }
                }
            }
            for (id, _) in live {
                table.remove(id);
            }
            prop_assert!(table.lock().is_empty());
        }
    }
}
